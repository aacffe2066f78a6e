// Package report records one boot or fetch: its steps, its sources, its refusals. It prints each
// of them to a console when it happens, and writes all of them as one JSON object.
//
// Start at [New]; [Report.Begin], [Report.Refuse] and [Report.Say] are the calls of every other
// package. A [Display] shows a report in another way than as lines. [Clean] makes a text from outside safe for a console.
//
// It owns the words and the JSON form of report.json, which is a format. It decides nothing and
// knows no source. It imports no other package of bootclient but timing.
//
// Limits: 128 refusals, 16 faults of one source, 400 bytes of one text from outside.
package report
