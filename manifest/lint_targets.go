package manifest

// targets checks the top-level targets.json: it has delegations and no target files.
func (l *linter) targets(signed object) {
	if files := l.object("signed.targets", l.get("signed", signed, "targets")); len(files) != 0 {
		l.fail("signed.targets", "must be empty: releases are in the delegated roles")
	}
	l.extension(signed)
	v, ok := signed["delegations"]
	if !ok {
		return
	}
	path := "signed.delegations"
	d := l.object(path, v)
	l.known(path, d, "keys", "roles", "succinct_roles")
	if _, ok := d["succinct_roles"]; ok {
		l.fail(join(path, "succinct_roles"), "is not supported")
	}
	keys := l.keys(join(path, "keys"), l.get(path, d, "keys"))
	roles := l.list(join(path, "roles"), l.get(path, d, "roles"))
	if len(roles) > maxEntries {
		l.fail(join(path, "roles"), "%d roles; at most %d are read", len(roles), maxEntries)
	}
	seen := map[string]bool{}
	for i, v := range roles {
		p := index(join(path, "roles"), i)
		name := l.delegation(p, l.object(p, v), keys)
		if seen[name] {
			l.fail(join(p, "name"), "a second role %q", name)
		}
		seen[name] = true
	}
}

func (l *linter) delegation(path string, role, keys object) (name string) {
	l.known(path, role, "name", "keyids", "threshold", "terminating", "paths", "path_hash_prefixes")
	name = l.match(join(path, "name"), l.get(path, role, "name"), roleGrammar, "a role name of a-z, 0-9, _ and -")
	switch name {
	case roleRoot, roleTargets, roleSnapshot, roleTimestamp:
		l.fail(join(path, "name"), "%q cannot be delegated", name)
	}
	l.authority(path, role, keys)
	if _, ok := l.get(path, role, "terminating").(bool); !ok {
		l.fail(join(path, "terminating"), "is not true or false")
	}
	if _, ok := role["path_hash_prefixes"]; ok {
		l.fail(join(path, "path_hash_prefixes"), "is not supported")
	}
	if name == ConfigRole {
		l.configDelegation(path, role)
	}
	paths := l.list(join(path, "paths"), l.get(path, role, "paths"))
	if len(paths) == 0 || len(paths) > maxKeys {
		l.fail(join(path, "paths"), "%d paths; there must be 1 to %d", len(paths), maxKeys)
	}
	for i, v := range paths {
		p := index(join(path, "paths"), i)
		if s := l.text(p, v); s == "" || len(s) > 256 {
			l.fail(p, "a path of %d bytes; there must be 1 to 256", len(s))
		}
	}
	return name
}

// release checks the fields of a release manifest and their types; Document.decode checks their values.
func (l *linter) release(signed object) {
	if _, ok := signed["delegations"]; ok {
		l.fail("signed.delegations", "a release cannot delegate")
	}
	targets := l.object("signed.targets", l.get("signed", signed, "targets"))
	most := maxArtifacts
	if x, ok := signed[extension].(object); ok && x[earlierField] != nil {
		most *= 1 + MaxEarlier // Release.check counts those of each release
	}
	if len(targets) > most {
		l.fail("signed.targets", "%d artifacts; at most %d are read", len(targets), most)
	}
	for _, name := range sorted(targets) {
		p := join("signed.targets", name)
		file := l.object(p, targets[name])
		l.known(p, file, "length", "hashes", "custom")
		l.integer(join(p, "length"), l.get(p, file, "length"), 1, maxArtifact)
		l.hashes(join(p, "hashes"), l.get(p, file, "hashes"))
		custom := l.object(join(p, "custom"), l.get(p, file, "custom"))
		l.known(join(p, "custom"), custom, "cid", "chunker", "role")
		for _, field := range []string{"cid", "chunker", "role"} {
			l.text(join(join(p, "custom"), field), l.get(join(p, "custom"), custom, field))
		}
	}
	l.get("signed", signed, extension)
	l.releaseFields("signed."+extension, l.extension(signed, releaseFieldNames...), signed)
}

func (l *linter) releaseFields(path string, x, signed object) {
	for _, name := range []string{"channel", "arch", "release", "cmdline", "job"} {
		l.text(join(path, name), l.get(path, x, name))
	}
	l.integer(join(path, "min_ram"), l.get(path, x, "min_ram"), 0, maxRAM)
	l.signedAt(join(path, "signed_at"), l.get(path, x, "signed_at"), signed)
	l.bless(path, x)
	if v, ok := x["submitters"]; ok {
		l.submitters(join(path, "submitters"), v)
	}
	if v, ok := x["critical"]; ok {
		for i, name := range l.list(join(path, "critical"), v) {
			l.text(index(join(path, "critical"), i), name)
		}
	}
	l.rolloutFields(path, x, signed)
}
