package docs

import (
	"os"
	"testing"
)

func TestTheCommandsOfSettingsWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("SETTINGS.md")
	check(t, err)
	script := beforehand + `
phase-publish add --store store --repo repo --artifacts artifacts --online-key keys/online release.json
echo hello > motd.txt
echo not for everybody > token.txt
echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnV0gPY1ZPNG3bxjXJJCFZjBaB6LQJ2vLDlxlF6Q3m admin > admin.pub
recipient=age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj
`
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	work(t, script)
}
