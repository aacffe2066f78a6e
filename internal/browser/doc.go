// Package browser drives a headless Chromium, for tests of pages and for screenshots of documents. No program links it.
//
// Start at [Start], then [Browser.Open]; [Shot] is a screenshot in one call. It speaks the Chrome DevTools Protocol over two
// pipes (--remote-debugging-pipe), so that no port is open and no generated library of the whole protocol has to be compiled.
//
// The browser resolves no host name but localhost: a page that asks for another host fails, and [Page.Requests] has the
// request. Each page has its own cookies. Limits: a page loads for 30 seconds at most.
package browser
