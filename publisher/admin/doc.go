// Package admin is the page on which an operator sees a publisher: releases and dates, its head beside those of mirrors,
// the machines that report their boots, the steps of a boot, what neighbours sent, and receipts of jobs.
//
// Start at [New]. access.go decides who may read it and who may accept or forget the key of a machine, view.go
// writes a view, and overview.go, machines.go, traffic.go and receipts.go have the function of each. events.go tells an
// open page of changes, and mirrors.go asks mirrors for their heads. The views are the templates in views, which
// html/template escapes; assets has one style sheet and one script, without which every view can be read.
//
// It trusts nothing that a machine, a mirror or a receipt says: texts are made printable and isolated, and are never
// markup. On a loopback address anybody on this computer reads it, and nobody decides with it; on any other it wants a
// token or client certificates. docs/OPERATING.md and docs/THREAT-MODEL.md say the rest.
//
// Called by package publisher, which fills in [State]. Limits: a page shows 50 machines, 256 sessions are remembered,
// 64 pages follow changes at once, and 500 receipts are shown.
package admin
