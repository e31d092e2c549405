// Command fluxly checks the DNS of a sending domain, and migrates stores.
//
//	fluxly dnscheck acme.test -selector 20231123163444pm
//	fluxly migrate -database postgres://app@db.acme.test/app
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// Exit codes, the same for every command.
const (
	exitOK      = 0 // done, and nothing is wrong
	exitFail    = 1 // done, and something is wrong
	exitUsage   = 2 // the command line or an argument is wrong; nothing was done
	exitUnknown = 3 // it could not be told
)

// command is one subcommand.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"dnscheck", "check what a domain publishes for mail, and say what to change", dnscheck},
		{"migrate", "bring the tables of a store up to this version", migrate},
		{"version", "print the version", version},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(stdout)
		return exitOK
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "fluxly: unknown command %q\n\n", args[0])
	usage(stderr)
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Usage: fluxly COMMAND [arguments]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nfluxly COMMAND -h explains a command.\n")
}

func version(_ context.Context, _ []string, stdout, _ io.Writer) int {
	v := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	fmt.Fprintln(stdout, "fluxly", v)
	return exitOK
}
