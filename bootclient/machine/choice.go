package machine

// A Choice is what a person chose in the menu for the following attempts. It replaces phase.mode= and
// phase.channel= of the kernel command line. All other arguments still hold: phase.cache= and
// phase.nowrite limit every mode.
type Choice struct {
	Mode, Channel string // "" for those of the command line
	// LastGood asks for the newest release that this machine has verified before, without a search.
	LastGood bool
}

// args returns the arguments of phase-boot boot and phase-boot search.
func (c Choice) args() []string {
	var args []string
	if c.Mode != "" {
		args = append(args, "--mode", c.Mode)
	}
	if c.Channel != "" {
		args = append(args, "--channel", c.Channel)
	}
	if c.LastGood {
		args = append(args, "--last-good")
	}
	return args
}
