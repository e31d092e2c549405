package sqlite

import (
	"maps"
	"slices"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/value"
)

// cacheSize is the most ids in one of the two halves of the cache.
const cacheSize = 16_384

// cache keeps profiles that were looked up by an id. Only the holder of the
// writer uses it.
//
// It holds nothing but what is committed: a profile that a transaction writes
// is taken out at once (which is right also if that is rolled back), and
// nothing that was read after a profile was written is put in.
type cache struct {
	// What was used lately is in young. When young is full it becomes old, and
	// what was old is forgotten.
	young, old map[fluxly.Identifier]*cached
	// version is SQLite's mark of changes by other connections.
	version int64
}

// cached is a profile as it is stored; it is never changed.
type cached struct {
	pid     int64
	profile *fluxly.Profile
}

func (c *cache) clear() { c.young, c.old = nil, nil }

func (c *cache) get(id fluxly.Identifier) *cached {
	p := c.young[id]
	if p == nil {
		if p = c.old[id]; p == nil {
			return nil
		}
		c.put(id, p)
	}
	return p
}

func (c *cache) put(id fluxly.Identifier, p *cached) {
	if len(c.young) >= cacheSize {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[fluxly.Identifier]*cached)
	}
	c.young[id] = p
}

// drop forgets what these ids lead to. Whoever changes a profile drops all ids
// that it has and had; it cannot be here under another.
func (c *cache) drop(ids []fluxly.Identifier) {
	for _, id := range ids {
		delete(c.young, id)
		delete(c.old, id)
	}
}

// copyProfile copies p, whose values are canonical.
func copyProfile(p *fluxly.Profile) (*fluxly.Profile, error) {
	q := *p
	q.ExternalIDs, q.AnonymousIDs, q.UserIDs = slices.Clone(p.ExternalIDs), slices.Clone(p.AnonymousIDs), slices.Clone(p.UserIDs)
	q.Unsubscribed = slices.Clone(p.Unsubscribed)
	if value.Flat(p.Traits) {
		q.Traits = maps.Clone(p.Traits)
		return &q, nil
	}
	traits, err := value.NormalizeMap(p.Traits)
	q.Traits = traits
	return &q, err
}
