package pgxstore

import (
	"context"
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

// load returns payloads, each once. One that cannot be restored is left out.
func (p *payloads) load(ctx context.Context, s *Store, q session, wanted []bodyOf) (map[bodyOf]*outhook.Payload, error) {
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
		return found, nil
	}
	fresh := make(map[bodyOf]*outhook.Payload, len(missing))
	err := ask(ctx, q, func(rows pgx.Rows) error {
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
		return rows.Err()
	}, s.sql(`
select p.id, p.event, p.content_type, p.header, p.body
from unnest($1::bigint[]) u (id) cross join lateral (select * from {schema}.payload p where p.id = u.id limit 1) p`),
		slices.Collect(maps.Keys(missing)))
	if err != nil {
		return nil, err
	}
	p.keep(fresh)
	maps.Copy(found, fresh)
	return found, nil
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
