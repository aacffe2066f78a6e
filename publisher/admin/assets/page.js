// Reads the view again when the publisher says that something has changed, and puts it in place. Without this script
// every view can be read.
"use strict";
(() => {
	const pause = 1000; // ms between two readings
	const retry = 30000; // ms until a refused connection is tried again
	const quiet = 15000; // ms between two announcements to a screen reader
	const live = document.getElementById("live");
	const status = document.getElementById("status");
	const lost = document.getElementById("lost");
	let source, later, opened = false, waiting = false, again = false, announced = -quiet;

	// place finds an element again in a newer version of the view.
	const place = (element) => {
		if (!element || !live.contains(element) || element === live) return null;
		const same = (tag, href) => [...live.querySelectorAll(tag)].filter((e) => e.getAttribute("href") === href);
		const tag = element.tagName, href = element.getAttribute("href"), label = element.getAttribute("aria-labelledby");
		const at = href ? same(tag, href).indexOf(element) : 0;
		return () => (href ? same(tag, href)[at] : label && live.querySelector(`[aria-labelledby="${label}"][tabindex]`)) || document.getElementById("main");
	};

	// tell says that the view may be out of date.
	const tell = (why) => {
		const words = `${why}: shown as of ${document.getElementById("shown").textContent}. Reload the page.`;
		if (lost.textContent !== words) lost.textContent = words;
	};

	const read = async () => {
		const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
		if (!answer.ok) throw new Error(`status ${answer.status}`);
		const next = new DOMParser().parseFromString(await answer.text(), "text/html");
		const content = next.getElementById("live");
		if (!content) throw new Error("no content");
		const focused = place(document.activeElement);
		const scrolled = [...live.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
		live.replaceChildren(...content.childNodes);
		live.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
		if (focused) focused().focus({ preventScroll: true });
		const shown = document.getElementById("shown"), then = next.getElementById("shown");
		shown.dateTime = then.dateTime;
		shown.textContent = then.textContent;
		if (source && source.readyState === EventSource.OPEN) lost.textContent = "";
		if (performance.now() - announced >= quiet) {
			announced = performance.now();
			status.textContent = `Updated at ${then.textContent}.`;
		}
	};

	const update = async () => {
		if (waiting) {
			again = true;
			return;
		}
		waiting = true;
		try {
			await read();
		} catch {
			tell("Not updated");
		}
		setTimeout(() => {
			waiting = false;
			if (again) {
				again = false;
				update();
			}
		}, pause);
	};

	const stop = () => {
		clearTimeout(later);
		if (source) source.close();
		source = null;
	};
	const follow = () => {
		stop();
		source = new EventSource("/events");
		source.addEventListener("change", update);
		source.addEventListener("open", () => {
			if (opened) update(); // what has changed without a connection
			opened = true;
		});
		source.addEventListener("error", () => {
			tell("Connection lost");
			if (source && source.readyState === EventSource.CLOSED) later = setTimeout(follow, retry); // the browser does not try again
		});
	};
	// a hidden page takes no connection
	document.addEventListener("visibilitychange", () => {
		if (document.hidden) {
			stop();
		} else {
			follow();
			update();
		}
	});
	window.addEventListener("pagehide", stop);
	window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
	if (!document.hidden) follow();
})();
