package pgxstore

import (
	"bytes"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// load returns payloads, each once: those that it knows at once, and others when the batch,
// to which it adds a statement for them, is answered. One that cannot be restored is left out.
func (s *Store) load(batch *pgx.Batch, wanted []stored.BodyOf) map[stored.BodyOf]*outhook.Payload {
	found := make(map[stored.BodyOf]*outhook.Payload, len(wanted))
	missing := make(map[int64]bool)
	for _, of := range wanted {
		if payload, ok := s.payloads.Find(of); ok {
			found[of] = payload
		} else {
			missing[of.ID] = true
		}
	}
	if len(missing) == 0 {
		return found
	}
	batch.Queue(s.sql(`
select p.id, p.event, p.content_type, p.header, p.body
from unnest($1::bigint[]) u (id) cross join lateral (select * from {schema}.payload p where p.id = u.id limit 1) p`),
		slices.Collect(maps.Keys(missing)),
	).Query(eachRow(func(rows pgx.Rows) error {
		var of stored.BodyOf
		var header []byte
		payload := &outhook.Payload{}
		err := rows.Scan(&of.ID, &of.Event, &payload.ContentType, &header, &payload.Body)
		if err != nil {
			return err
		}
		if payload.Header, err = stored.DecodeHeader(header); err == nil {
			found[of] = payload
			s.payloads.Keep(map[stored.BodyOf]*outhook.Payload{of: payload})
		}
		return nil
	}))
	return found
}

func bodyOf(id int64, event string) stored.BodyOf { return stored.BodyOf{ID: id, Event: event} }

// copyOf returns a payload that does not change when the host uses its bytes again.
func copyOf(p *outhook.Payload) *outhook.Payload {
	return &outhook.Payload{ContentType: p.ContentType, Header: p.Header.Clone(), Body: bytes.Clone(p.Body)}
}
