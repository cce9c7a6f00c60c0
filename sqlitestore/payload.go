package sqlitestore

import (
	"errors"
	"strconv"
	"sync"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// bodyOf is a payload by its number and its event: a row that was damaged to have the
// number of another event's does not get that.
type bodyOf struct {
	id    int64
	event string
}

// maxPayloadBytes bounds the bodies that are remembered.
const maxPayloadBytes = 4 << 20

// payloads remembers the latest payloads, which never change, and whose numbers are
// never used again: of an event to many subscribers, one claim rarely gets all deliveries.
type payloads struct {
	mu     sync.Mutex // guards all below
	latest map[bodyOf]*outhook.Payload
	bytes  int
}

// find sets the payloads of deliveries. Those that it returns are to be read.
func (p *payloads) find(picked []candidate) (missing []*candidate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range picked {
		d := &picked[i]
		if d.payload == nil {
			continue
		}
		if d.Payload = p.latest[d.bodyOf()]; d.Payload == nil {
			missing = append(missing, d)
		}
	}
	return missing
}

// keep remembers payloads that are committed: the number of one that is not may
// be given again.
func (p *payloads) keep(restored map[bodyOf]*outhook.Payload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for of, payload := range restored {
		if payload == nil {
			continue
		}
		if p.latest == nil || p.bytes+len(payload.Body) > maxPayloadBytes {
			p.latest, p.bytes = make(map[bodyOf]*outhook.Payload), 0
		}
		p.latest[of] = payload
		p.bytes += len(payload.Body)
	}
}

var errMissing = errors.New("payload: it is missing")

// read reads the payloads of deliveries. Of one that cannot be restored it returns why.
func (t *transaction) read(of []*candidate) (restored map[bodyOf]*outhook.Payload, faults map[bodyOf]error, err error) {
	restored, faults = make(map[bodyOf]*outhook.Payload), make(map[bodyOf]error)
	ids := []byte{'['}
	for _, d := range of {
		if _, ok := restored[d.bodyOf()]; !ok {
			restored[d.bodyOf()] = nil
			ids = append(strconv.AppendInt(ids, *d.payload, 10), ',')
		}
	}
	ids[len(ids)-1] = ']'
	err = t.query(`select p.id, p.event, p.content_type, p.header, p.body
		from json_each(?) wanted cross join outhook_payload p on p.id = wanted.value`, []any{string(ids)}, func(r scanner) (bool, error) {
		var b bodyOf
		var content payload
		if err := r.Scan(&b.id, &b.event, &content.contentType, &content.header, &content.body); err != nil {
			return false, err
		}
		restored[b], faults[b] = content.restore()
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
