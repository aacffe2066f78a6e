// Package pubtest makes a small signed repository with its keys, artifacts and store,
// for the tests of publisher and its subpackages. Start at New, then Sign and Add.
//
// Every key is made for one test and is worth nothing. It imports ingest and repo, so that
// the tests of those two are outside their packages.
package pubtest
