package outhook

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// A SealingKey encrypts what a durable store keeps of subscribers.
type SealingKey struct {
	// ID is stored beside what the key has sealed. 1 to 128 bytes of printable
	// ASCII, without spaces, never used for another Secret. Required.
	ID string

	// Secret is 32 random bytes: the bytes themselves, no text that encodes
	// them. A key management service is asked for them when the host starts.
	// Required.
	Secret Secret
}

// A Sealer encrypts snapshots when a store marshals them: the whole of a
// subscriber's target, its URL, header and labels as well as its keys. It is made by
// [NewSealer] and may be used concurrently.
//
// The cipher is AES-256-GCM with a random nonce. Its key is derived from the
// sealing key by HKDF-SHA256 for one delivery, so that there is no bound to what
// one sealing key may seal, and what was sealed for one delivery cannot be opened
// as another's.
type Sealer struct {
	first string // ID of the key that seals

	// A func, since fmt cannot look into one; see Secret.
	secret func(id string) string // empty: there is no such key
}

// NewSealer returns a Sealer whose first key seals and whose keys all open. To
// rotate, first give the new key to all processes as a further one, then put it
// in front, and take the old one away when nothing that it sealed is pending or
// to be replayed.
//
// The error joins a [FieldError] for each fault.
func NewSealer(keys ...SealingKey) (*Sealer, error) {
	var f faults
	if len(keys) == 0 {
		f.add("", "SealingKey", "there is none")
	}
	secrets := make(map[string]string, len(keys))
	for i, key := range keys {
		field := fmt.Sprintf("SealingKey[%d]", i)
		if !validName(key.ID) {
			f.add("", field+".ID", "%q is not 1 to 128 bytes of printable ASCII without spaces", clip(key.ID))
		}
		if _, twice := secrets[key.ID]; twice {
			f.add("", field+".ID", "%q stands twice in the list", clip(key.ID))
		}
		secrets[key.ID] = key.Secret.Reveal()
		if n := len(secrets[key.ID]); n != sealingKeySize {
			f.add("", field+".Secret", "it has %d bytes, not %d", n, sealingKeySize)
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return &Sealer{keys[0].ID, func(id string) string { return secrets[id] }}, nil
}

const sealingKeySize = 32 // bytes, for AES-256

// sealed is the stored form of a target that was encrypted.
type sealed struct {
	Key  string `json:"key"`  // ID
	Data []byte `json:"data"` // nonce, ciphertext and tag
}

func (s *Sealer) seal(plaintext []byte, id DeliveryID) *sealed {
	aead, context := sealing(s.secret(s.first), s.first, id)
	return &sealed{s.first, aead.Seal(nil, nil, plaintext, context)}
}

// errUnopened makes a delivery dead: no key will ever open its snapshot.
var errUnopened = errors.New("the snapshot is damaged, or was sealed for another delivery")

func (s *Sealer) open(from *sealed, id DeliveryID) (*target, error) {
	if s == nil || s.secret(from.Key) == "" {
		return nil, errNoSealingKey
	}
	aead, context := sealing(s.secret(from.Key), from.Key, id)
	plaintext, err := aead.Open(nil, nil, from.Data, context)
	if err != nil {
		return nil, errUnopened
	}
	t, err := decodeTarget(plaintext)
	if err != nil || t.url == nil {
		return nil, errUnopened
	}
	t.id, t.sealer = id, s
	return t, nil
}

// sealing returns the cipher for the snapshot of one delivery, and the
// associated data, which is also what its key is derived for.
func sealing(secret, keyID string, id DeliveryID) (cipher.AEAD, []byte) {
	var context []byte
	for _, part := range []string{"outhook snapshot 1", keyID, id.Event, id.Subscriber} {
		// Length-prefixed, so that parts cannot run together.
		context = binary.BigEndian.AppendUint64(context, uint64(len(part)))
		context = append(context, part...)
	}
	// None of these can fail with a secret and a key of 32 bytes.
	key, _ := hkdf.Key(sha256.New, []byte(secret), nil, string(context), sealingKeySize)
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return aead, context
}

// These hold back a claim that this process is not set up for.
var (
	errNoSealingKey = errors.New("no sealing key opens the snapshot")
	errUnsealed     = errors.New("the snapshot is not sealed")
	errNoDirectory  = errors.New("there is no directory to ask for the subscriber")
)

// open opens the snapshot of a claim if it is sealed. It returns why the claim has
// to be held back, nil if it has not.
func (d *Dispatcher) open(c *Claim) (held error) {
	t := c.Snapshot.target()
	switch {
	case t == nil || d.directory != nil: // then it serves for its labels alone
		return nil
	case t.directory:
		held = errNoDirectory
	case t.sealed != nil:
		opened, err := d.options.Sealer.open(t.sealed, c.ID)
		switch err {
		case nil:
			c.Snapshot = newSnapshot(opened)
			return nil
		case errUnopened:
			c.Fault = cmp.Or(c.Fault, err.Error())
			return nil
		}
		held = err
	case d.options.Sealer != nil && t.vetted == nil && !d.options.StoreKeysInPlaintext:
		held = errUnsealed // whoever can write to the database could have put it there
	default:
		return nil
	}
	key := ""
	if t.sealed != nil {
		key = t.sealed.Key
	}
	d.observers.alarm("delivery held", "event", c.ID.Event, "subscriber", c.ID.Subscriber, "reason", held, "sealing_key", key)
	return held
}
