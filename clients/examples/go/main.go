// Go's database/sql over Flight SQL, with the driver of Arrow itself.
//
//	cd clients/examples/go && go run . grpc://127.0.0.1:31337
package main

import (
	"database/sql"
	"fmt"
	"log"
	"os"
	"strings"

	_ "github.com/apache/arrow-go/v18/arrow/flight/flightsql/driver"
)

// database/sql knows no integers but int64, and the driver does not narrow them to the type of a column.
const query = `SELECT dest, count(*) AS flights FROM nyc.flights WHERE carrier = ? AND distance > CAST(? AS BIGINT)
	GROUP BY dest ORDER BY flights DESC, dest LIMIT 3`

func main() {
	uri := "grpc://127.0.0.1:31337"
	if len(os.Args) > 1 {
		uri = os.Args[1]
	}
	if err := run(uri); err != nil {
		log.Fatal(err)
	}
}

func run(uri string) error {
	// The driver's own form of address; with TLS it is followed by &tls=enabled.
	db, err := sql.Open("flightsql", "flightsql://"+strings.TrimPrefix(uri, "grpc://")+"?timeout=30s")
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.Query(query, "UA", 2000)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var dest string
		var flights int64
		if err := rows.Scan(&dest, &flights); err != nil {
			return err
		}
		fmt.Println(dest, flights)
	}
	return rows.Err()
}
