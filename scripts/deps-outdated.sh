#!/bin/sh
# Lists the modules of go.mod that have a newer version, and whether the commands build with
# it. It works on a copy of go.mod.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# resolves MODULE VERSION builds with a newer version in a copy of go.mod, and prints the
# result.
resolves() { # MODULE VERSION
	cp go.mod go.sum "$tmp/"
	if ! "$GO" get -modfile="$tmp/go.mod" "$1@$2" >"$tmp/out" 2>&1 ||
		! "$GO" build -modfile="$tmp/go.mod" -o /dev/null ./... >"$tmp/out" 2>&1; then
		echo "does not build: $(grep -v '^go: \(downloading\|upgraded\|added\)' "$tmp/out" | head -n 2 | tr '\n' ' ' | cut -c 1-120)"
		return
	fi
	echo resolves
}

# only modules of packages that we use; modules without an answer (-e) are left out
"$GO" list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}' ./... | sort -u |
	xargs "$GO" list -m -u -e -f '{{if .Update}}{{.Path}} {{.Version}} {{.Update.Version}}{{if .Indirect}} indirect{{end}}{{end}}' >"$tmp/list"
while read -r module version newer indirect; do
	printf '%-55s %-40s %-40s %s %s\n' "$module" "$version" "$newer" "$(resolves "$module" "$newer")" "$indirect"
done <"$tmp/list"
