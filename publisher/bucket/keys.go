package bucket

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// roleVariables are set where a cloud gives a role to a container.
var roleVariables = []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"}

func hasRole() bool {
	return slices.ContainsFunc(roleVariables, func(name string) bool { return os.Getenv(name) != "" })
}

// chain returns the sources of credentials. It asks the metadata service of a cloud only where the
// environment says that there is one: elsewhere it would wait for it.
func chain() *credentials.Credentials {
	list := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	if hasRole() {
		list = append(list, &credentials.IAM{})
	}
	return credentials.NewChainCredentials(list)
}

// keysRemedy returns what to do when the object store refuses a request: which keys it was signed with, or where keys
// were looked for.
func (b *Bucket) keysRemedy() string {
	profile := fmt.Sprintf("profile %.80q of %.200s", cmp.Or(os.Getenv("AWS_PROFILE"), "default"),
		cmp.Or(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), "~/.aws/credentials"))
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	used, err := b.creds.GetWithContext(b.core.CredContext())
	switch {
	case id != "" && secret == "":
		return "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not; set both"
	case id == "" && secret != "":
		return "AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not; set both"
	case err != nil || used.AccessKeyID == "" || used.SecretAccessKey == "":
		return "the request was not signed: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and there are no keys in " + profile + "; set the variables, or AWS_PROFILE"
	case used.AccessKeyID == id:
		return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what this key may do in the bucket"
	case hasRole():
		return "check the keys in " + profile + ", or the role of this container, and what they may do in the bucket"
	}
	return "check the keys in " + profile + ", and what they may do in the bucket"
}

// clockRemedy compares the clocks.
func (b *Bucket) clockRemedy() string {
	ahead := time.Duration(b.clock.skew.Load()).Round(time.Second)
	if ahead < 0 {
		return fmt.Sprintf("the clock of this machine is %s ahead of that of the object store; set the clock", -ahead)
	}
	return fmt.Sprintf("the clock of this machine is %s behind that of the object store; set the clock", ahead)
}
