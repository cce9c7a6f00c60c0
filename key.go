package outhook

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// A Key signs the requests to a subscriber, and verifies them at the receiver.
type Key struct {
	// Secret is, for Standard Webhooks, one of
	//
	//	"whsec_" and 24 to 64 random bytes in base64: HMAC-SHA256, see GenerateKey
	//	"whsk_" and the 64 bytes of an Ed25519 key in base64, see GenerateEd25519Key
	//	"whpk_" and the 32 bytes of its public half: it verifies, and cannot sign
	//
	// For the other schemes that are built in it is any text, whose bytes are the
	// key as they are: a "whsec_…" of Stripe is not decoded. Each customer has
	// secrets of its own.
	Secret Secret

	// Scheme names the [Signer] that signs with this key: "" for Standard
	// Webhooks, "github", "shopify", "slack" or "stripe", or one of Options.Signers.
	Scheme string

	// Expires ends the key's use, for rotation. Zero: never. Without a Directory,
	// deliveries that wait keep the keys that they were sent with, also when
	// they are replayed: let old keys live longer than the retry schedule.
	Expires time.Time
}

// GenerateKey makes a symmetric Standard Webhooks key of 32 bytes from crypto/rand.
func GenerateKey() Key {
	b := make([]byte, 32)
	rand.Read(b) // never fails: it ends the program instead
	return standardKey{hmac: b}.key()
}

// GenerateEd25519Key makes an asymmetric Standard Webhooks key. It stays with the
// sender; receivers verify with its [Key.Public], which forges nothing.
func GenerateEd25519Key() Key {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil { // never: crypto/rand ends the program instead
		panic(err)
	}
	return standardKey{private: private}.key()
}

// ParseKey returns the Standard Webhooks key of a secret such as "whsec_MfKQ9…".
// The error says what is wrong with it, does not repeat it, and matches [ErrKey].
func ParseKey(secret string) (Key, error) {
	if _, err := decodeKey(secret); err != nil {
		return Key{}, fmt.Errorf("outhook: parse key: %w", err)
	}
	return Key{Secret: NewSecret(secret)}, nil
}

// Public returns the public half, "whpk_…", of a key that begins with "whsk_", for
// receivers. The error matches [ErrKey].
func (k Key) Public() (Key, error) {
	decoded, err := decodeKey(k.Secret.Reveal())
	if err == nil && decoded.public == nil {
		err = keyFault("the secret is not of an Ed25519 key")
	}
	if err != nil {
		return Key{}, fmt.Errorf("outhook: public key: %w", err)
	}
	public := standardKey{public: decoded.public}.key()
	public.Scheme, public.Expires = k.Scheme, k.Expires
	return public, nil
}

// live reports whether the key may be used at an instant.
func (k Key) live(now time.Time) bool { return k.Expires.IsZero() || now.Before(k.Expires) }

// Prefixes of Standard Webhooks keys. The prefix decides the algorithm, and
// nothing else does.
const (
	secretPrefix  = "whsec_"
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"
)

const (
	minSecret = 24 // bytes
	maxSecret = 64
)

// A standardKey is a decoded key of Standard Webhooks: hmac alone is set, or public,
// and private if it can sign.
type standardKey struct {
	hmac    []byte
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// A keyFault says what is wrong with a key. It matches ErrKey.
type keyFault string

func (f keyFault) Error() string        { return string(f) }
func (f keyFault) Is(target error) bool { return target == ErrKey }

func decodeKey(secret string) (k standardKey, err error) {
	prefix := secret[:strings.IndexByte(secret, '_')+1]
	switch prefix {
	case secretPrefix, privatePrefix, publicPrefix:
	default:
		return k, keyFault("the secret does not begin with whsec_, whsk_ or whpk_")
	}
	b, err := base64.StdEncoding.DecodeString(secret[len(prefix):])
	if err != nil {
		return k, keyFault("the secret behind " + prefix + " is not base64")
	}
	switch prefix {
	case secretPrefix:
		if len(b) < minSecret || len(b) > maxSecret {
			return k, keyFault(fmt.Sprintf("the secret has %d bytes, not %d to %d", len(b), minSecret, maxSecret))
		}
		k.hmac = b
	case publicPrefix:
		if len(b) != ed25519.PublicKeySize {
			return k, keyFault(fmt.Sprintf("the public key has %d bytes, not %d", len(b), ed25519.PublicKeySize))
		}
		k.public = b
	case privatePrefix:
		if len(b) != ed25519.PrivateKeySize {
			return k, keyFault(fmt.Sprintf("the private key has %d bytes, not %d", len(b), ed25519.PrivateKeySize))
		}
		k.private = b
		k.public = ed25519.PublicKey(b[ed25519.SeedSize:])
		// With another public half, signatures give the private one away.
		if !ed25519.NewKeyFromSeed(b[:ed25519.SeedSize]).Equal(k.private) {
			return standardKey{}, keyFault("the halves of the private key do not belong together")
		}
	}
	return k, nil
}

// key is the reverse of decodeKey.
func (k standardKey) key() Key {
	prefix, b := secretPrefix, k.hmac
	switch {
	case k.private != nil:
		prefix, b = privatePrefix, k.private
	case k.public != nil:
		prefix, b = publicPrefix, k.public
	}
	return Key{Secret: NewSecret(prefix + base64.StdEncoding.EncodeToString(b))}
}
