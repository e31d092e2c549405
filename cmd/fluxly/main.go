// Command fluxly checks the DNS of a sending domain, and migrates stores.
//
//	fluxly dnscheck acme.test -selector 20231123163444pm
//	fluxly migrate -database postgres://app@db.acme.test/app
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes, the same for every command.
const (
	exitOK      = 0 // done, and nothing is wrong
	exitFail    = 1 // done, and something is wrong
	exitUsage   = 2 // the command line or an argument is wrong and nothing was done, or the output could not be written
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
	out := &output{Writer: stdout}
	code := dispatch(ctx, args, out, stderr)
	if code == exitOK && out.err != nil {
		fmt.Fprintf(stderr, "fluxly: %v\n", out.err)
		return exitUsage
	}
	return code
}

// output keeps the first error of writing: what could not be printed was not done.
type output struct {
	io.Writer

	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
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

// parse reads the arguments of a command, with flags before or after the rest.
// Help that was asked for goes to stdout, and help that a mistake calls for to
// stderr; done is then true, and code the exit code.
func parse(set *flag.FlagSet, help string, args []string, stdout, stderr io.Writer) (rest []string, code int, done bool) {
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	rest, err := parseMixed(set, args)
	switch {
	case err == nil:
		return rest, exitOK, false
	case errors.Is(err, flag.ErrHelp):
		printHelp(set, help, stdout)
		return nil, exitOK, true
	}
	hint := ""
	if strings.HasSuffix(err.Error(), ": parse error") {
		hint = "; a time has a unit, such as 30s or 5m"
	}
	fmt.Fprintf(stderr, "fluxly %s: %v%s\n\n", set.Name(), err, hint)
	printHelp(set, help, stderr)
	return nil, exitUsage, true
}

func printHelp(set *flag.FlagSet, help string, w io.Writer) {
	fmt.Fprint(w, help)
	set.SetOutput(w)
	set.PrintDefaults()
}

// parseMixed lets flags stand after arguments, where people put them.
func parseMixed(set *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		args = set.Args()
		if len(args) == 0 {
			return rest, nil
		}
		rest = append(rest, args[0])
		args = args[1:]
	}
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
