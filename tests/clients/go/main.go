// Logs in with arrow-go, once for each line of the standard input.
//
// A line is a JSON object with an id. With an address in the form of the driver it is a login through
// database/sql; for encryption the authority to trust and the client's certificate and key come with it. With
// a host it is a login through the Flight SQL client, done as Grafana's plug-in does it: a handshake with user
// and password or a header with a token, and the system's certificates to trust.
//
// For each of them a line comes out: who the server says is calling, or the error.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"log"
	"os"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql/driver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const query = "SELECT current_user"

type login struct {
	ID          string `json:"id"`
	Address     string `json:"address"`
	Authority   string `json:"authority"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`

	Host     string `json:"host"`
	Secure   bool   `json:"secure"`
	User     string `json:"user"`
	Password string `json:"password"`
	Token    string `json:"token"`
}

type outcome struct {
	ID        string `json:"id"`
	Principal string `json:"principal"`
	Error     string `json:"error"`
}

func main() {
	lines, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked login
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal(err)
		}
		said := outcome{ID: asked.ID}
		way := byDriver
		if asked.Host != "" {
			way = byClient
		}
		principal, err := way(asked)
		said.Principal = principal
		if err != nil {
			said.Error = err.Error()
		}
		if err := out.Encode(said); err != nil {
			log.Fatal(err)
		}
	}
}

func byDriver(asked login) (string, error) {
	address := asked.Address
	if asked.Authority != "" {
		if err := trust(asked); err != nil {
			return "", err
		}
		address += "&tls=" + asked.ID
	}
	db, err := sql.Open("flightsql", address)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var principal string
	err = db.QueryRow(query).Scan(&principal)
	return principal, err
}

func byClient(asked login) (string, error) {
	transport := insecure.NewCredentials()
	if asked.Secure {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return "", err
		}
		transport = credentials.NewClientTLSFromCert(pool, "")
	}
	client, err := flightsql.NewClient(asked.Host, nil, nil, grpc.WithTransportCredentials(transport))
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if asked.User != "" {
		if ctx, err = client.Client.AuthenticateBasicToken(ctx, asked.User, asked.Password); err != nil {
			return "", err
		}
	} else if asked.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "Authorization", "Bearer "+asked.Token)
	}
	info, err := client.Execute(ctx, query)
	if err != nil {
		return "", err
	}
	reader, err := client.DoGet(ctx, info.Endpoint[0].Ticket)
	if err != nil {
		return "", err
	}
	defer reader.Release()
	if !reader.Next() {
		return "", reader.Err()
	}
	return reader.RecordBatch().Column(0).ValueStr(0), nil
}

// trust tells the driver under the name of the login whom to trust, and what to show.
func trust(asked login) error {
	authority, err := os.ReadFile(asked.Authority)
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(authority)
	if asked.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(asked.Certificate, asked.Key)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return driver.RegisterTLSConfig(asked.ID, config)
}
