package fluxly_test

import (
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

func ExampleMessage_AppendTo() {
	m := &fluxly.Message{
		SendKey: "run_42/welcome/1",
		Date:    time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC),
		From:    "Acme <hello@acme.test>",
		To:      "Zoë <zoe@example.com>",
		Subject: "Welcome to Acme",
		Text:    "Hello Zoë\n",
		Stream:  "lifecycle-production",
	}
	mail, err := m.AppendTo(nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(strings.ReplaceAll(string(mail), "\r\n", "\n"))
	// Output:
	// From: Acme <hello@acme.test>
	// To: =?utf-8?q?Zo=C3=AB?= <zoe@example.com>
	// Subject: Welcome to Acme
	// Date: Sun, 01 Mar 2026 09:30:00 +0000
	// Message-ID: <bdb6fb85196fdcf8b5d288fb97f14af4@acme.test>
	// X-PM-Message-Stream: lifecycle-production
	// X-PM-Metadata-send_key: run_42/welcome/1
	// MIME-Version: 1.0
	// Content-Type: text/plain; charset=utf-8
	// Content-Transfer-Encoding: quoted-printable
	//
	// Hello Zo=C3=AB
}
