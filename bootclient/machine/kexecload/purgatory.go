package kexecload

import "encoding/binary"

// purgatory returns the code that runs between the kernels: it sets the registers as
// Documentation/arch/arm64/booting.rst demands and branches to the next kernel. The old kernel calls it
// without a device tree in x0, because kexec_load has no argument for it.
func purgatory(kernel, tree uint64) []byte {
	var code []byte
	for _, word := range []uint32{
		0x580000c4, // ldr x4, kernel
		0x580000e0, // ldr x0, tree
		0xaa1f03e1, // mov x1, xzr
		0xaa1f03e2, // mov x2, xzr
		0xaa1f03e3, // mov x3, xzr
		0xd61f0080, // br  x4
	} {
		code = binary.LittleEndian.AppendUint32(code, word)
	}
	code = binary.LittleEndian.AppendUint64(code, kernel)
	return binary.LittleEndian.AppendUint64(code, tree)
}
