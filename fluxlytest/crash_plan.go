package fluxlytest

import "math/rand/v2"

// crashPlace is a place at which a process may be stopped or frozen.
type crashPlace int

const (
	placeCommit    crashPlace = iota // before a commit, which may be lost or kept
	placeCommitted                   // after a commit, before its caller knows
	placeRead                        // before a read
	placeHasRead                     // after a read
	placeClaimed                     // after a commit that claims a mail or stores its outcome
	placeLooked                      // after the last look at a mail that is to be handed over
	placeSend                        // in the sender, before the provider has the mail
	placeTaken                       // in the sender, when the provider has taken the mail
	placeReplied                     // when the provider has replied
	placeAsk                         // before the provider is asked for a mail
	placeAsked                       // when it has answered
	placeFunc                        // before a step of the program's own
	placeFuncDone                    // after it
	places
)

var placeNames = [places]string{
	"before a commit", "after a commit", "before a read", "after a read",
	"after a commit about a mail", "after the last look at a mail", "before the provider has the mail",
	"when the provider has taken the mail", "when the provider has replied", "before the provider is asked", "when the provider has answered",
	"before the program's own step", "after the program's own step",
}

// free reports whether the engine can be called while its worker stands there.
func (p crashPlace) free() bool { return p != placeCommit && p != placeCommitted && p != placeClaimed }

// crashFate is what happens at a place.
type crashFate int

const (
	fateNone crashFate = iota
	fateStop           // at a commit: it is lost
	fateStopKept
	fatePause
	fateTemporary // the provider refuses for now
	fateLost      // the reply is lost, whether the mail was taken or not
)

// crashPlan decides what happens at each place.
type crashPlan interface {
	at(place crashPlace) crashFate
}

// randomPlan draws what happens at each place.
func randomPlan(seed uint64) crashPlan {
	r := rand.New(rand.NewPCG(seed, 1))
	return &drawnPlan{
		Rand: r, stops: r.IntN(6), pauses: r.IntN(6), troubles: r.IntN(6),
		often: []int{12, 40, 120, 300}[r.IntN(4)],
	}
}

type drawnPlan struct {
	*rand.Rand
	// slow: what has just been frozen is frozen again soon, now and then, as on
	// a machine that has no memory left.
	slow                           bool
	stops, pauses, troubles, often int
}

func (d *drawnPlan) at(place crashPlace) crashFate {
	// The places at the provider are few, and the most interesting.
	n := d.often
	switch place {
	case placeClaimed, placeLooked, placeSend, placeTaken, placeReplied, placeAsk, placeAsked, placeFunc, placeFuncDone:
		n = max(n/6, 3)
	case placeRead, placeHasRead:
		n *= 3
	case placeCommit, placeCommitted, places:
	}
	if d.slow && d.pauses > 0 && n < d.often {
		if d.slow = d.IntN(3) == 0; d.slow {
			d.pauses--
			return fatePause
		}
	}
	if d.IntN(n) > 0 {
		return fateNone
	}
	switch k := d.IntN(3); {
	case k == 0 && d.stops > 0:
		d.stops--
		if place == placeCommit && d.IntN(2) == 0 {
			return fateStopKept
		}
		return fateStop
	case k == 1 && d.pauses > 0:
		d.pauses--
		d.slow = true
		return fatePause
	case k == 2 && d.troubles > 0:
		switch place {
		case placeSend, placeTaken, placeAsk:
			d.troubles--
			if place == placeSend && d.IntN(2) == 0 {
				return fateTemporary
			}
			return fateLost
		case placeCommit, placeCommitted, placeRead, placeHasRead, placeClaimed, placeLooked, placeReplied, placeAsked, placeFunc, placeFuncDone, places:
		}
	}
	return fateNone
}

// quietPlan lets everything be.
type quietPlan struct{}

func (quietPlan) at(crashPlace) crashFate { return fateNone }
