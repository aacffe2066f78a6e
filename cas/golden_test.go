package cas_test

// goldenCuts are the sizes of the leaves and the root of castest.Bytes(0, 2 MiB), which is
// ChaCha8 with a key of zeros.
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

// kuboRoots are the roots that Kubo 0.43.1 prints for castest.Bytes(5, size):
// ipfs add -Q --only-hash --cid-version=1 --raw-leaves --hash=blake3 --chunker=…
var kuboRoots = []struct {
	chunker string
	size    int
	root    string
}{
	{"size-262144", 0, "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi"},
	{"size-262144", 1 << 18, "bafkr4ieeeojih7oyh7xvxak4ohowdu4g3d66fr33wxkqxkwvn6bxyvlfbm"},
	{"size-262144", 1<<20 + 1, "bafyb4ickzrye4fng23de5vuluddfdaqmvwrra4mwfddlajbjzqg26pyfoq"},
	{"size-262144", 50 << 20, "bafyb4icv6s4xxqhwf75ynlowot4m6o7ki3jt4lfvi2mrpqx3mukmnlxvci"}, // two levels of nodes
	{"size-1048576", 1 << 18, "bafkr4ieeeojih7oyh7xvxak4ohowdu4g3d66fr33wxkqxkwvn6bxyvlfbm"},
	{"size-1048576", 1<<20 + 1, "bafyb4ictlcpc7xijvusri5gnpx25mvmm3jlqartae5rki2g4dmsrgdevgy"},
	{"size-1048576", 50 << 20, "bafyb4icty5ltfzmbp7nlbmafrda7uqolccovsjfu52byhpbtnsou7t3pky"},
}
