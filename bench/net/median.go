package main

import (
	"cmp"
	"slices"
)

// median returns the median of a list, the upper one of two.
func median[T cmp.Ordered](list []T) T {
	return medianOf(list, func(v T) T { return v })
}

// medianOf returns the median of a figure of all runs, the upper one of two.
func medianOf[S any, T cmp.Ordered](runs []S, figure func(S) T) T {
	return percentileOf(runs, 50, figure)
}

// percentileOf returns the value that p percent of a figure of all runs do not exceed.
func percentileOf[S any, T cmp.Ordered](runs []S, p int, figure func(S) T) T {
	list := make([]T, len(runs))
	for i, r := range runs {
		list[i] = figure(r)
	}
	slices.Sort(list)
	return list[min(len(list)*p/100, len(list)-1)]
}
