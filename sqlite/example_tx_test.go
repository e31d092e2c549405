package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// An order and the event that says so are stored together: there is never one
// without the other.
func ExampleStore_Tx() {
	dir, err := os.MkdirTemp("", "fluxly")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "shop.db")

	store, err := sqlite.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	engine, err := fluxly.New(fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{Stream: "lifecycle"}, Mode: fluxly.Live, From: "Acme <hello@acme.test>",
		Emails: fluxlytest.Emails("thanks"),
		Automations: []fluxly.Automation{{
			Name: "receipt", Trigger: fluxly.On("ordered"), Steps: fluxly.Steps{fluxly.Send("thanks")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}

	// The program's own connections to the same file.
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id INTEGER PRIMARY KEY, person TEXT NOT NULL)"); err != nil {
		log.Fatal(err)
	}

	order := func(person string, paid bool) (err error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (person) VALUES (?)", person); err != nil {
			return err
		}
		if err := engine.Within(store.Tx(tx)).Track(ctx, fluxly.Event{Name: "ordered", ExternalID: person}); err != nil {
			return err
		}
		if !paid {
			return errors.New("the card was refused")
		}
		return tx.Commit()
	}
	fmt.Println("ann:", order("ann", true))
	fmt.Println("bob:", order("bob", false))

	var orders int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM orders").Scan(&orders); err != nil {
		log.Fatal(err)
	}
	fmt.Println("orders:", orders)
	mails, err := engine.Sends(ctx, fluxly.SendQuery{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("mails:", len(mails))
	// Output:
	// ann: <nil>
	// bob: the card was refused
	// orders: 1
	// mails: 1
}
