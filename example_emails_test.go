package fluxly_test

import (
	"errors"
	"fmt"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
)

func ExampleLoadEmails() {
	// In a program: //go:embed all:emails
	// (without all: the files that begin with "_" are left out).
	templates := fstest.MapFS{
		"_layout.html": {Data: []byte(`<html><body>{{ template "content" . }}
<p><a href="{{{ pm:unsubscribe }}}">Unsubscribe</a></p></body></html>`)},
		"welcome.html": {Data: []byte(`---
Subject: Welcome, {{ .Traits.first_name | default "and hello" }}
Topic: onboarding
---
<h1>Hi {{ .Traits.first_name | default "there" }}</h1>
<p>Your trial ends on {{ .Traits.trial_ends_at | date "2 January" }}.
<a href="https://app.acme.test/start">Start here</a></p>`)},
	}
	emails, err := fluxly.LoadEmails(templates, fluxly.EmailOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	mail, err := emails.Render("welcome", &fluxly.EmailData{
		Traits: fluxly.Traits{"first_name": "Ann", "trial_ends_at": "2026-05-17T09:00:00Z"},
		Now:    time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(mail.Subject)
	fmt.Println(mail.Topic)
	fmt.Print(mail.Text)
	// Output:
	// Welcome, Ann
	// onboarding
	// Hi Ann
	//
	// Your trial ends on 17 May. Start here <https://app.acme.test/start>
	//
	// Unsubscribe: {{{ pm:unsubscribe }}}
}

// All mistakes are found when the templates are loaded.
func ExampleLoadEmails_mistakes() {
	_, err := fluxly.LoadEmails(fstest.MapFS{
		"welcome.html": {Data: []byte("---\nSubject: Welcome\n---\n<p>Hi {{ .Trait.first_name }}</p>\n{{ .Now | daet \"2 Jan\" }}")},
		"goodbye.html": {Data: []byte("<p>Bye</p>")},
		"invoice.html": {Data: []byte("---\nSubject: Invoice\n---\n<p>{{ .Props.amuont }}</p>")},
	}, fluxly.EmailOptions{Schema: fluxly.EmailSchema{
		Properties: map[string][]string{"invoice_created": {"amount", "due_at"}},
	}})
	var mistakes *fluxly.ConfigError
	if errors.As(err, &mistakes) {
		for _, p := range mistakes.Problems {
			fmt.Println(p)
		}
	}
	// Output:
	// emails goodbye.html:1: has no subject; start the file with a line of ---, a line "Subject: ...", and a line of ---
	// emails invoice.html:4: .Props.amuont: no event in the schema has a property "amuont"; did you mean "amount"?
	// emails welcome.html:4: .Trait.first_name: there is no field Trait; did you mean "Traits"?
	// emails welcome.html:5: there is no function "daet"; did you mean "date"?
}

func ExampleTemplateError() {
	emails, err := fluxly.LoadEmails(fstest.MapFS{
		"welcome.txt": {Data: []byte("---\nSubject: Welcome\n---\nHi {{ .Traits.first_name }}")},
	}, fluxly.EmailOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = emails.Render("welcome", &fluxly.EmailData{})
	var te *fluxly.TemplateError
	if errors.As(err, &te) {
		fmt.Println(te.File, te.Line, te.Field)
	}
	fmt.Println(err)
	// Output:
	// welcome.txt 4 .Traits.first_name
	// email "welcome": text: welcome.txt:4: .Traits.first_name: is missing for this person; give a fallback with | default "...", or ask first with {{ if has ... }}
}
