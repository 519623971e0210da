package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// caller asks a console's HTTP API.
type caller struct {
	server       string // without a slash at its end
	token, actor string
	client       *http.Client
}

func newCaller(server, token, actor string) *caller {
	return &caller{strings.TrimSuffix(server, "/"), token, actor, &http.Client{
		Timeout: 30 * time.Second,
		// It would send what is asked for elsewhere, as something else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// serverProblem says why an address can't be a console's.
func serverProblem(server string) error {
	u, err := url.Parse(server)
	switch {
	case server == "":
		return nil
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("not of the form https://host:port/prefix")
	case u.User != nil:
		return errors.New("it holds a user: give --actor, and --server-token")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("it has something behind its path")
	}
	return nil
}

// refusedError is an answer that is no success.
type refusedError struct {
	code int
	text string
}

func (e *refusedError) Error() string { return e.text }

// knownError is an error with the text of one, that is another for errors.Is.
type knownError struct {
	error
	is error
}

func (e *knownError) Unwrap() []error { return []error{e.error, e.is} }

// maxAnswer bounds what a console may answer. A payload is shown whole.
const maxAnswer = 256 << 20

func (c *caller) get(ctx context.Context, path string, q url.Values, into any) error {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil, into)
}

func (c *caller) post(ctx context.Context, path string, what, into any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, body, into)
}

func (c *caller) call(ctx context.Context, method, path string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.server+"/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return usagef("--server: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.actor != "": // the console takes its token as a password, too, and the user for who asks
		r.SetBasicAuth(c.actor, c.token)
	case c.token != "":
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the console does not answer: %w", err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the console's answer breaks off: %w", err)
	}
	return c.read(answer, raw, into)
}

// read reads an answer, or says what is wrong with it.
func (c *caller) read(answer *http.Response, raw []byte, into any) error {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case answer.StatusCode == http.StatusUnauthorized && c.token == "":
		return errors.New("the console asks for a token: give --server-token")
	case answer.StatusCode == http.StatusUnauthorized:
		return errors.New("the console does not take this token: see --server-token")
	case answer.StatusCode/100 == 3:
		return fmt.Errorf("there is no console at %s: it leads to %s", c.server, answer.Header.Get("Location"))
	case kind != "application/json":
		return fmt.Errorf("there is no console at %s: it answers %s, and not with JSON", c.server, answer.Status)
	}
	if answer.StatusCode/100 == 2 {
		// Payloads as they would be without the answer's indentation.
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return fmt.Errorf("the console's answer can't be read: %w", err)
		}
		if err := json.Unmarshal(b.Bytes(), into); err != nil {
			return fmt.Errorf("the console's answer can't be read: is it of another version? %w", err)
		}
		return nil
	}
	var told struct{ Error, Cause string }
	_ = json.Unmarshal(raw, &told) // then it says nothing
	switch {
	case told.Cause != "":
		return &refusedError{answer.StatusCode, told.Cause}
	case told.Error != "":
		return &refusedError{answer.StatusCode, told.Error}
	}
	return &refusedError{answer.StatusCode, "the console answers " + answer.Status}
}
