// Package codec keeps payloads from being read at rest: it encrypts them, compresses them, or both, on their way into
// Postgres, and gives them back on their way out. pgengine, outbox and inbox put every payload through it, if they
// are given one.
//
// # Keys
//
// A payload is somebody's: its subject's, as the saga's input says. Each subject has a data key of its own, which lies in
// pgsagaz.data_key, wrapped by a key-encryption key that never comes near the database:
//
//	Keyring (yours: a file, a KMS)   wraps     data key of a subject   encrypts   payloads
//	k2 (current), k1                 ───────►  pgsagaz.data_key        ────────►  inputs, results, signals, messages, ...
//
// So to forget a subject is to destroy one row ([Erase]): whatever is left of the payloads, here, in replicas and, once
// they have expired, in backups, is noise. And to rotate the key-encryption key is to wrap the data keys anew
// ([Codec.Rotate]); no payload is touched.
//
// Payloads of no subject are under one common key, which can't be erased.
//
// # What is stored
//
// Where the column is json: an object {"pgsagaz":1,"key":ID,"data":BASE64}. Where it is bytea: the bytes of data
// themselves, which begin with a magic number. What looks like neither is taken for a plain payload, so that a codec can
// be switched on under a system that runs. A plain payload that happens to look like one is wrapped, also without a codec; JSON
// that does is refused without one.
//
// # Cryptography
//
// AES-256-GCM under a key that is derived for each payload, by HKDF from the data key and 16 random bytes, so that
// no number of payloads under one data key comes near the limit of random nonces. The place that a payload belongs to (say,
// results of the saga order) is authenticated with it: one that is moved elsewhere does not decode. Compression comes before
// encryption, and so the length tells how well a payload compresses: leave it out where others choose a part of a
// payload and can see its size.
package codec
