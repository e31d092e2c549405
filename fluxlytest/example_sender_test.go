package fluxlytest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// A provider that refuses one person for now, the first time.
func ExampleFakeSender() {
	sender := &fluxlytest.FakeSender{}
	sender.Rules(fluxlytest.Rule{To: "bob@acme.test", Nth: 1, Outcome: fluxlytest.Temporary()})

	ctx := context.Background()
	for _, to := range []string{"ann@acme.test", "bob@acme.test", "bob@acme.test"} {
		_, err := sender.Send(ctx, &fluxly.Message{From: "hello@acme.test", To: to, Subject: "Hi", Text: "Hello"})
		fmt.Println(to, errors.Is(err, fluxly.ErrTemporary))
	}
	for _, m := range sender.Mails() {
		fmt.Println("received by", m.To)
	}
	// Output:
	// ann@acme.test false
	// bob@acme.test true
	// bob@acme.test false
	// received by ann@acme.test
	// received by bob@acme.test
}
