package pgxstore

import (
	"bytes"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

const (
	maxPayloadBytes = 4 << 20 // of what is remembered
	payloadBytes    = 512     // of each, beside its body
)

// bodyOf is a payload by its number and its event: a row that was damaged to have the
// number of another event's does not get that.
type bodyOf struct {
	id    int64
	event string
}

// payloads remembers the latest payloads, which never change: of an event to many
// subscribers, one claim rarely gets all deliveries.
type payloads struct {
	mu     sync.Mutex // guards all below
	latest map[bodyOf]*outhook.Payload
	bytes  int
}

// load returns payloads, each once: those that it knows at once, and others when the batch,
// to which it adds a statement for them, is answered. One that cannot be restored is left out.
func (p *payloads) load(batch *pgx.Batch, s *Store, wanted []bodyOf) map[bodyOf]*outhook.Payload {
	found := make(map[bodyOf]*outhook.Payload, len(wanted))
	missing := make(map[int64]bool)
	p.mu.Lock()
	for _, of := range wanted {
		if payload := p.latest[of]; payload != nil {
			found[of] = payload
		} else {
			missing[of.id] = true
		}
	}
	p.mu.Unlock()
	if len(missing) == 0 {
		return found
	}
	batch.Queue(s.sql(`
select p.id, p.event, p.content_type, p.header, p.body
from unnest($1::bigint[]) u (id) cross join lateral (select * from {schema}.payload p where p.id = u.id limit 1) p`),
		slices.Collect(maps.Keys(missing)),
	).Query(func(rows pgx.Rows) error {
		fresh := make(map[bodyOf]*outhook.Payload, len(missing))
		for rows.Next() {
			var of bodyOf
			var header []byte
			payload := &outhook.Payload{}
			err := rows.Scan(&of.id, &of.event, &payload.ContentType, &header, &payload.Body)
			if err != nil {
				return err
			}
			if payload.Header, err = stored.DecodeHeader(header); err == nil {
				fresh[of] = payload
			}
		}
		p.keep(fresh)
		maps.Copy(found, fresh)
		return rows.Err()
	})
	return found
}

// copyOf returns a payload that does not change when the host uses its bytes again.
func copyOf(p *outhook.Payload) *outhook.Payload {
	return &outhook.Payload{ContentType: p.ContentType, Header: p.Header.Clone(), Body: bytes.Clone(p.Body)}
}

func (p *payloads) keep(fresh map[bodyOf]*outhook.Payload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for of, payload := range fresh {
		if p.latest == nil || p.bytes+len(payload.Body)+payloadBytes > maxPayloadBytes {
			p.latest, p.bytes = make(map[bodyOf]*outhook.Payload), 0
		}
		p.latest[of] = payload
		p.bytes += len(payload.Body) + payloadBytes
	}
}
