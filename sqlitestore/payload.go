package sqlitestore

import (
	"errors"
	"strconv"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

var errMissing = errors.New("payload: it is missing")

// read reads the payloads of deliveries. Of one that cannot be restored it returns why.
func (t *transaction) read(of []*candidate) (restored map[stored.BodyOf]*outhook.Payload, faults map[stored.BodyOf]error, err error) {
	restored, faults = make(map[stored.BodyOf]*outhook.Payload), make(map[stored.BodyOf]error)
	wanted := make(map[stored.BodyOf]bool)
	ids := []byte{'['}
	for _, d := range of {
		if !wanted[d.bodyOf()] {
			wanted[d.bodyOf()] = true
			ids = append(strconv.AppendInt(ids, *d.payload, 10), ',')
		}
	}
	ids[len(ids)-1] = ']'
	err = t.query(`select p.id, p.event, p.content_type, p.header, p.body
		from json_each(?) wanted cross join outhook_payload p on p.id = wanted.value`, []any{string(ids)}, func(r scanner) (bool, error) {
		var b stored.BodyOf
		var content payload
		if err := r.Scan(&b.ID, &b.Event, &content.contentType, &content.header, &content.body); err != nil {
			return false, err
		}
		payload, err := content.restore()
		if faults[b] = err; err == nil {
			restored[b] = payload
		}
		return true, nil
	})
	return restored, faults, err
}

// payload is what is stored of a Payload.
type payload struct {
	contentType *string // nil: there is no row
	header      *string
	body        []byte
}

func (p *payload) restore() (*outhook.Payload, error) {
	if p.contentType == nil {
		return nil, errMissing
	}
	restored := &outhook.Payload{ContentType: *p.contentType, Body: p.body}
	if p.header != nil {
		var err error
		if restored.Header, err = stored.DecodeHeader([]byte(*p.header)); err != nil {
			return nil, errors.New("payload: its header is not JSON")
		}
	}
	return restored, nil
}
