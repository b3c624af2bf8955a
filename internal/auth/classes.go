package auth

import (
	"context"
	"crypto/subtle"

	"go.uber.org/zap"
)

// This file contains the slow work that a login takes, and who it is the same for.

// Comparer checks passwords against hashes of one algorithm, as the modules
// http.authentication.hashes of Caddy do.
type Comparer interface {
	// Compare reports whether the hash is of the password. Its error is about the hash.
	Compare(hashed, password []byte) (bool, error)
}

// hashClass is one amount of slow work: all hashes with the same algorithm and
// the same cost parameters take equally long to check.
type hashClass struct {
	comparer Comparer
	fake     []byte // a hash of this class which no password matches
	threads  int64  // goroutines that one check keeps busy
}

// matches reports whether password is that of cred. user is the name that the
// client sent: a stranger has none of its own.
func (u *Users) matches(ctx context.Context, client string, cred *credential, user, password []byte) (bool, error) {
	sum := sumCredential(user, cred.hash, password)
	if subtle.ConstantTimeCompare(sum[:], cred.sum[:]) == 1 || cred.known.is(&sum) {
		return true, nil
	}
	if len(u.classes) == 0 {
		return false, nil // plain passwords only: the sum is all the work there is
	}
	return u.verifier.verify(ctx, u.hungUp(ctx), cred.known, sum, func(ctx context.Context) (bool, error) {
		return u.compareSlowly(ctx, client, cred, password)
	})
}

// compareSlowly checks password against the hash of cred. When that fails, it
// goes on to check against a fake of every other class, so that all failures
// take one check of each class: with a fake for strangers alone, users with
// cheaper hashes, or with plain passwords, would be told from them by time.
func (u *Users) compareSlowly(ctx context.Context, client string, cred *credential, password []byte) (bool, error) {
	if cred.class != nil {
		if same, err := u.compare(ctx, client, cred.class, cred, cred.hash, password); same || err != nil {
			return same, err
		}
	}
	for _, class := range u.classes {
		if class != cred.class {
			if _, err := u.compare(ctx, client, class, cred, class.fake, password); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (u *Users) compare(ctx context.Context, client string, class *hashClass, cred *credential, hashed, password []byte) (bool, error) {
	release, err := u.verifier.acquire(ctx, client, class.threads)
	if err != nil {
		return false, err
	}
	defer release()
	same, err := class.comparer.Compare(hashed, password)
	if err != nil {
		// The error may quote the hash; its user is enough to look for it.
		u.logger.Error("password hash cannot be compared", zap.String("user", cred.name))
		return false, nil
	}
	return same, nil
}
