package fluxlytest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// A mail goes to the stand-in over STARTTLS and with its token. Then a reply
// gets lost, and the server's memory settles whether the mail went out.
func ExamplePostmarkSMTP() {
	server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	host, port, _ := net.SplitHostPort(server.Addr())
	number, _ := strconv.Atoi(port)
	smtp, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{
		Host: host, Port: number, RootCAs: server.RootCAs(),
		ServerToken: server.Token, MessageStream: "lifecycle",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer smtp.Close()
	sender := server.LookupSender(smtp)

	ctx := context.Background()
	mail := &fluxly.Message{
		SendKey: "run_1/welcome/1", From: "Acme <hello@acme.test>", To: "ann@example.com",
		Subject: "Welcome", Text: "Hello Ann,\nwelcome to Acme.\n",
	}
	_, err = sender.Send(ctx, mail)
	fmt.Println("error:", err)
	got := server.Mails()[0]
	fmt.Printf("%s to %s on stream %s, send key %s\n%s", got.Subject, got.To[0], got.Stream, got.SendKey(), got.Text)

	server.FailNext(fluxlytest.Fault{At: fluxlytest.AtReply, Store: true, Drop: true})
	mail.SendKey = "run_1/first-project/1"
	_, err = sender.Send(ctx, mail)
	fmt.Println("unknown:", errors.Is(err, fluxly.ErrUnknownOutcome))
	_, found, _ := sender.Lookup(ctx, mail.SendKey)
	fmt.Println("the server has it:", found)
	// Output:
	// error: <nil>
	// Welcome to ann@example.com on stream lifecycle, send key run_1/welcome/1
	// Hello Ann,
	// welcome to Acme.
	// unknown: true
	// the server has it: true
}
