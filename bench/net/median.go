package main

import (
	"cmp"
	"slices"
	"time"
)

// median is the middle one, or the upper of two.
func median[T cmp.Ordered](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

// of is the median of one figure of every run.
func of[S any, T cmp.Ordered](runs []S, figure func(S) T) T {
	list := make([]T, len(runs))
	for i, r := range runs {
		list[i] = figure(r)
	}
	return median(list)
}

// percentileOf is the figure that p of a hundred do not exceed.
func percentileOf[S any, T cmp.Ordered](runs []S, p int, figure func(S) T) T {
	list := make([]T, len(runs))
	for i, r := range runs {
		list[i] = figure(r)
	}
	slices.Sort(list)
	return list[min(len(list)*p/100, len(list)-1)]
}

func seconds(d time.Duration) float64 { return d.Seconds() }
