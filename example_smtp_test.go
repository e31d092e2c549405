package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"strconv"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// A program leaves Host, Port and RootCAs out and reads the token from its
// environment. Here a stand-in takes Postmark's place.
func ExampleNewPostmarkSMTP() {
	server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle-production"}})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	host, portText, _ := net.SplitHostPort(server.Addr())
	port, _ := strconv.Atoi(portText)

	sender, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{
		ServerToken:   server.Token, // os.Getenv("POSTMARK_SERVER_TOKEN")
		MessageStream: "lifecycle-production",
		Host:          host, Port: port, RootCAs: server.RootCAs(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()

	ctx := context.Background()
	if err := sender.Verify(ctx); err != nil { // logs in, sends nothing
		log.Fatal(err)
	}
	_, err = sender.Send(ctx, &fluxly.Message{
		SendKey: "run_42/welcome/1",
		From:    "Acme <hello@acme.test>",
		To:      "Ann <ann@customer.test>",
		Subject: "Welcome to Acme",
		Text:    "Hello Ann\n",
	})
	if err != nil {
		log.Fatal(err)
	}
	mail := server.Mails()[0]
	fmt.Println(mail.Subject)
	fmt.Println("stream:", mail.Stream)
	fmt.Println("send key:", mail.SendKey())
	// Output:
	// Welcome to Acme
	// stream: lifecycle-production
	// send key: run_42/welcome/1
}

// What went wrong, what it means for the mail, and what to do about it.
func ExampleNewPostmarkSMTP_errors() {
	server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	host, portText, _ := net.SplitHostPort(server.Addr())
	port, _ := strconv.Atoi(portText)

	sender, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{
		ServerToken: "00000000-0000-0000-0000-000000000000", MessageStream: "broadcast",
		Host: host, Port: port, RootCAs: server.RootCAs(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()

	err = sender.Verify(context.Background())
	var failed *fluxly.DeliveryError
	if errors.As(err, &failed) {
		fmt.Println(failed.Code, failed.Phase, failed.Kind)
		fmt.Println("credentials refused:", errors.Is(err, fluxly.ErrAuth))
		fmt.Println(failed.Remedy)
	}
	// Output:
	// 535 auth permanent
	// credentials refused: true
	// the Server Token is wrong or was rotated, or SMTP is switched off for the server: take a fresh token from the API Tokens tab of the Postmark server; over SMTP it is both user name and password, and an account token does not work
}

// A relay of one's own, with a certificate of one's own authority.
func ExampleNewSMTP() {
	server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	host, portText, _ := net.SplitHostPort(server.Addr())
	port, _ := strconv.Atoi(portText)

	sender, err := fluxly.NewSMTP(fluxly.SMTPConfig{
		Host: host, Port: port, // "mail.example.com"; 587 when left out
		Username: server.Token, Password: server.Token,
		RootCAs: server.RootCAs(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()

	receipt, err := sender.Send(context.Background(), &fluxly.Message{
		From: "Acme <hello@acme.test>", To: "ann@customer.test", Subject: "Welcome", Text: "Hello Ann\n",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("taken:", !receipt.At.IsZero())
	// Output: taken: true
}
