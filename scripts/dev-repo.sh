#!/usr/bin/env bash
# Makes the development repository that images trust when make gets no ROOT=, unless it is there:
# keys without passphrases in DIR/keys, and DIR/repo. Its root.json names http://10.0.2.2:8080 as
# a mirror, which is port 8080 of this host for a machine on QEMU's user network.
#
#   scripts/dev-repo.sh [DIR]    DIR: default build/dev
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${1:-build/dev}
bin=${BIN:-$PWD/bin}
PATH=$bin:$PATH
. scripts/release.sh

if [ ! -e "$dir/repo/root.json" ]; then
	for name in keys store repo; do
		[ ! -e "$dir/$name" ] || die "$dir/$name: exists without $dir/repo/root.json; it is not replaced: move it away, or remove it if you do not need it"
	done
	mkdir -p "$dir"
	new=$(mktemp -d "$dir/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	{
		make_keys "$new/keys"
		init_repo "$new" --arch x86_64 --arch arm64 --https http://10.0.2.2:8080 >/dev/null
	} 2>"$new/log" || { cat "$new/log" >&2; exit 1; }
	mv -n "$new/keys" "$new/repo" "$dir/" # the repository last
fi
echo "$dir/repo/root.json: for development, its keys in $dir/keys have no passphrases; make ROOT=your/root.json builds an image that trusts another repository" >&2
