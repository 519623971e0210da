package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// makeCodec is the program's own codec, or one by the settings; nil: payloads are stored as they are.
func (a *app) makeCodec() (*codec.Codec, error) {
	if a.Codec != nil {
		return a.Codec, nil
	}
	if a.cfg.codecKeys == "" && !a.cfg.codecCompress {
		return nil, nil
	}
	cfg := codec.Config{Compress: a.cfg.codecCompress}
	if a.cfg.codecKeys != "" {
		var err error
		if cfg.Keyring, err = codec.ParseKeys(a.cfg.codecKeys); err != nil {
			return nil, usagef("--codec-keys: %w", err)
		}
	}
	return codec.New(cfg)
}

// useCodec makes the codec, and puts it into the context of the command, for whatever shows payloads.
func (a *app) useCodec(cmd *cobra.Command) (err error) {
	if a.codec, err = a.makeCodec(); err == nil && a.codec != nil {
		cmd.SetContext(codec.With(cmd.Context(), a.codec, ""))
	}
	return err
}

func (a *app) codecCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "codec", Short: "Look after the keys that payloads are encrypted with", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(a.codecStatus(), a.codecRotate(), a.codecNewKey())
	return cmd
}

func (a *app) codecStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show which key-encryption keys are in use", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSchema(cmd.Context(), func(pool *pgxpool.Pool) error {
				uses, err := a.codec.Uses(cmd.Context(), pool)
				if err != nil {
					return err
				}
				if uses == nil {
					uses = []codec.KeyUse{}
				}
				return a.print(map[string]any{"keys": uses}, func(w io.Writer) { showUses(w, uses) })
			})
		},
	}
}

func showUses(w io.Writer, uses []codec.KeyUse) {
	if len(uses) == 0 {
		fmt.Fprintln(w, "nothing is encrypted")
		return
	}
	rows := [][]string{{"KEY", "DATA KEYS", "HERE", ""}}
	for _, u := range uses {
		name, here, note := u.Name, "no", ""
		switch {
		case u.Name == "":
			name, here, note = "-", "-", "erased"
		case u.Current:
			here, note = "yes", "current"
		case u.Held:
			here, note = "yes", "rotate, and it can go"
		default:
			note = "what it wraps can't be read here"
		}
		rows = append(rows, []string{name, strconv.Itoa(u.DataKeys), here, note})
	}
	table(w, "", rows)
}

func (a *app) codecRotate() *cobra.Command {
	var by func() codec.By
	cmd := &cobra.Command{
		Use: "rotate", Short: "Wrap all data keys with the current key-encryption key", Args: cobra.NoArgs,
		Long: "Wraps all data keys anew with the first key of the keyring. Payloads are not touched. Before it, every process must\n" +
			"have both keys, the new one first; after it, the old one can leave their keyrings. It may be run again at any time.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSchema(cmd.Context(), func(pool *pgxpool.Pool) error {
				n, err := a.codec.Rotate(cmd.Context(), pool, by())
				if err != nil {
					return err
				}
				return a.print(map[string]int{"rotated": n}, func(w io.Writer) { fmt.Fprintf(w, "%d data keys are wrapped anew\n", n) })
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	return cmd
}

func (a *app) codecNewKey() *cobra.Command {
	return &cobra.Command{
		Use: "newkey NAME", Short: "Make a key-encryption key, as a line for the keyring's file", Args: cobra.ExactArgs(1),
		Example: "  (umask 077; pgsagaz codec newkey 2027-01 > keys)",
		RunE: func(_ *cobra.Command, args []string) error {
			line, err := codec.NewKey(args[0])
			if err != nil {
				return &usageError{err}
			}
			return a.print(map[string]string{"key": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
		},
	}
}

func (a *app) sagaErase() *cobra.Command {
	var subject string
	var o codec.EraseOptions
	cmd := &cobra.Command{
		Use: "erase --subject S --reason TEXT", Short: "Make all payloads of a subject unreadable, for good", Args: cobra.NoArgs,
		Long: "Destroys the data key of a subject: no payload that was encrypted for it can be decoded any more, wherever it lies, and\n" +
			"no saga of the subject can be started. That can't be undone. Workers that have the key in memory notice within a\n" +
			"minute. It is refused while sagas of the subject have not ended, or messages wait to be published. With --force those sagas\n" +
			"get stuck, and those messages become dead letters.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if subject == "" || o.Reason == "" {
				return usagef("--subject and --reason are needed")
			}
			o.By = a.cfg.actor
			return a.withSchema(cmd.Context(), func(pool *pgxpool.Pool) error {
				var e codec.Erasure
				err := pgx.BeginTxFunc(cmd.Context(), pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
					e, err = codec.Erase(cmd.Context(), tx, subject, o)
					return err
				})
				if err != nil {
					return err
				}
				return a.print(e, func(w io.Writer) { showErasure(w, e) })
			})
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "whose payloads")
	cmd.Flags().StringVar(&o.Reason, "reason", "", "why, for the record")
	a.cfg.bind(cmd.Flags(), "actor")
	cmd.Flags().BoolVar(&o.Force, "force", false, "even if sagas have not ended or messages wait")
	return cmd
}

func showErasure(w io.Writer, e codec.Erasure) {
	if e.Before {
		fmt.Fprintf(w, "%s was erased before: %s, by %s (%s)\n", e.Subject, clock(e.ErasedAt), e.By, e.Reason)
		return
	}
	fmt.Fprintf(w, "%s is erased\n", e.Subject)
	if e.Unfinished > 0 {
		fmt.Fprintf(w, "%d of its sagas have not ended, and will be stuck: see saga list --state stuck\n", e.Unfinished)
	}
	if e.Pending > 0 {
		fmt.Fprintf(w, "%d of its messages were not published, and will be dead letters\n", e.Pending)
	}
}

// export is all that is kept of a subject.
type export struct {
	Subject  string            `json:"subject"`
	Key      codec.SubjectKey  `json:"key"`
	Sagas    []pgengine.Status `json:"sagas"`
	Messages []text            `json:"messages"` // in the outbox
	Consumed []text            `json:"consumed"` // in the inbox
}

// text is a kept message whose payload is shown as JSON if it is, else as text.
type text struct {
	Message any `json:"message"`
	Payload any `json:"payload"`
}

func textOf(m any, payload []byte) text {
	if json.Valid(payload) {
		return text{m, json.RawMessage(payload)}
	}
	return text{m, strings.ToValidUTF8(string(payload), "\uFFFD")}
}

func (a *app) sagaExport() *cobra.Command {
	var subject string
	cmd := &cobra.Command{
		Use: "export --subject S", Short: "Print all that is kept of a subject, decoded, as JSON", Args: cobra.NoArgs,
		Long: "Prints the sagas of a subject, live and archived, its messages in the outbox, and what consumers keep of it. Only what was\n" +
			"encrypted for the subject is found.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if subject == "" {
				return usagef("--subject is needed")
			}
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error { return a.export(cmd.Context(), e, subject) })
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "whose payloads")
	return cmd
}

func (a *app) export(ctx context.Context, e *pgengine.Engine, subject string) error {
	key, err := codec.Find(ctx, e.Pool(), subject)
	if err != nil {
		return err
	}
	all := export{Subject: subject, Key: key, Sagas: []pgengine.Status{}, Messages: []text{}, Consumed: []text{}}
	for s, err := range e.OfKey(ctx, key.Key) {
		if err != nil {
			return err
		}
		all.Sagas = append(all.Sagas, s)
	}
	messages, err := outbox.OfKey(ctx, e.Pool(), a.codec, key.Key)
	if err != nil {
		return err
	}
	for _, m := range messages {
		payload := m.Payload
		m.Payload = nil
		all.Messages = append(all.Messages, textOf(m, payload))
	}
	consumed, err := inbox.OfKey(ctx, e.Pool(), a.codec, key.Key)
	if err != nil {
		return err
	}
	for _, m := range consumed {
		payload := m.Payload
		m.Payload = nil
		all.Consumed = append(all.Consumed, textOf(m, payload))
	}
	out := json.NewEncoder(a.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(all)
}
