// Package s3test runs a real S3 server, versitygw with files in a folder, on a loopback address, and
// a proxy before it that makes faults, for the tests and measurements of publisher/bucket.
//
// Start at Start. The server is built from the module in the folder versitygw, once: the go command
// keeps it in its cache. The first build takes minutes.
package s3test
