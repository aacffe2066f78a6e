package file

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// IsFull reports whether the cause of an error is a full disk or a used-up quota.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// FullDisk adds the remedy to the error of a full disk. It returns any other error as it is.
func FullDisk(err error) error {
	if IsFull(err) {
		return fmt.Errorf("%w; free some space and run it again", err)
	}
	return err
}
