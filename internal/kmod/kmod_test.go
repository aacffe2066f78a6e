package kmod

import "testing"

func TestNameIsTheKernels(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/fs/nls/nls_iso8859-1.ko.xz":          "nls_iso8859_1",
		"kernel/drivers/net/virtio_net.ko":           "virtio_net",
		"kernel/drivers/block/xen-blkfront.ko.zst":   "xen_blkfront",
		"/lib/modules/6.1/kernel/fs/ext4/ext4.ko.gz": "ext4",
		"xen-netfront": "xen_netfront",
		"8139cp":       "8139cp",
	} {
		if got := Name(file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}
