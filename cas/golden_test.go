package cas_test

// goldenCuts are the leaves of castest.Bytes(0, 2 MiB), that is of ChaCha8 with a key of
// zeros, and the root over them.
var goldenCuts = map[string]struct {
	root  string
	sizes []int
}{
	"fastcdc-v1.0.0-16384-65536-262144": {
		"bafyb4ib2j2e5at73xnt6igqucj7zsu3nhscllqyy53w6mmdqxtb2gor2vm",
		[]int{
			57769, 72151, 75615, 68222, 85207, 90499, 69827, 49524, 73934, 93919, 69241, 91527, 58967, 75407,
			77487, 70398, 80728, 67267, 81788, 75695, 102926, 146549, 84475, 18670, 82304, 49274, 69037, 58745,
		},
	},
	"jc-v1.0.0-16384-65536-262144": {
		"bafyb4iebgwefzdmqbbdnqysl5pmpyrg3x6c5yxt74v5jbnjxccuo4ig56i",
		[]int{
			129920, 75615, 46721, 60661, 83590, 52956, 64288, 26974, 21493, 228826, 157822, 115889,
			25201, 53756, 35982, 118861, 22103, 88819, 178621, 17948, 128601, 185449, 174858, 2198,
		},
	},
	"zstd-4096-jc-v1.0.0-16384-65536-262144": {
		"bafyb4iebgwefzdmqbbdnqysl5pmpyrg3x6c5yxt74v5jbnjxccuo4ig56i",
		[]int{
			129920, 75615, 46721, 60661, 83590, 52956, 64288, 26974, 21493, 228826, 157822, 115889,
			25201, 53756, 35982, 118861, 22103, 88819, 178621, 17948, 128601, 185449, 174858, 2198,
		},
	},
	"fastcdc-v1.0.0-65536-131072-1048576": {
		"bafyb4ie6erwosdapmqadkwp7rv5qt3sxbx7ixqa4awgubdhclvzkxsyvsa",
		[]int{190075, 174156, 149520, 277293, 157822, 141090, 178244, 141277, 178621, 146549, 103145, 257162, 2198},
	},
	"size-262144": {
		"bafyb4ie3mqidvcfvf7odn5n4anjxeic6ofcbss4a36usi3dd3xeqvjpyyu",
		[]int{262144, 262144, 262144, 262144, 262144, 262144, 262144, 262144},
	},
}
