// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarn/internal/cli"
	"tarn/internal/durable"
	"tarn/media"
	"tarn/replicate"
	"tarn/store"
)

// A backup holds everything that makes the node: the configuration, both seeds, the files of rooms, and the database as it
// is at one moment. Inside its envelope (envelope.go) it is package store's backup, then a tar archive of the files. In this
// order: what the database names at its moment is on the disk by then, and a file never changes. One that is uploaded later is in
// the archive without a row, and the restore drops it.

type backupArgs struct {
	File       string `json:"file"` // absolute
	Passphrase string `json:"passphrase"`
}

type backupResult struct {
	File       string `json:"file"`
	Bytes      int64  `json:"bytes"`
	Passphrase string `json:"passphrase,omitempty"` // if it was made here
}

// cmdBackup writes a backup of the node, running or not.
func cmdBackup(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "backup")
	stdin := f.Bool("passphrase-stdin", false, "read the passphrase from the first line of standard input (else one is made and printed)")
	words, err := f.Words(args, 1, "the file to write")
	if err != nil {
		return err
	}
	a := backupArgs{}
	made := ""
	if a.File, err = filepath.Abs(words[0]); err != nil {
		return err
	}
	if *stdin {
		if a.Passphrase, err = firstLine(e.In); err != nil {
			return err
		}
	} else {
		made = rand.Text() // 128 bits
		a.Passphrase = made
	}
	var res backupResult
	if err := call(ctx, f.Config, "backup", true, a, &res); err != nil {
		return err
	}
	res.Passphrase = made
	fmt.Fprint(e.Err, "The file holds the node's keys, rooms and contacts, under the passphrase. Keep the two apart.\n")
	return f.Show(e, res, func(w io.Writer) {
		fmt.Fprintf(w, "file %s\nbytes %d\n", res.File, res.Bytes)
		if made != "" {
			fmt.Fprintf(w, "passphrase %s\n", made)
		}
	})
}

// backup writes the file: under another name, synced, then renamed. A crash leaves the old file, or none.
func (n *node) backup(ctx context.Context, a backupArgs) (res backupResult, err error) {
	if a.Passphrase == "" {
		return res, errors.New("a backup needs a passphrase")
	}
	tmp := a.File + ".part"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	err = errors.Join(n.writeBackup(stopping{ctx, f}, a.Passphrase), f.Chmod(0o600), f.Sync())
	if err == nil {
		var fi os.FileInfo
		if fi, err = f.Stat(); err == nil {
			res = backupResult{File: a.File, Bytes: fi.Size()}
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return res, err
	}
	if err = os.Rename(tmp, a.File); err != nil {
		return res, err
	}
	return res, durable.SyncDir(filepath.Dir(a.File))
}

// stopping is a file until ctx ends: a node that is told to stop does not wait for its backup.
type stopping struct {
	ctx context.Context
	w   io.Writer
}

func (s stopping) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}

func (n *node) writeBackup(w io.Writer, passphrase string) error {
	out, err := sealFile(w, passphrase)
	if err != nil {
		return err
	}
	if err := store.Backup(n.kv, out); err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	for _, name := range []string{program.ConfigName, onionSeed, signingSeed} {
		if err := addFile(archive, n.cfg.DataDir, name); err != nil {
			return err
		}
	}
	err = filepath.WalkDir(filepath.Join(n.cfg.DataDir, "media"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(n.cfg.DataDir, path)
		if err != nil {
			return err
		}
		if err := addFile(archive, n.cfg.DataDir, name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // removed meanwhile
	})
	if err == nil {
		err = archive.Close()
	}
	return errors.Join(err, out.Close())
}

func addFile(archive *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: fi.Size(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.CopyN(archive, f, fi.Size())
	return err
}

// errBackup: the archive holds something that no backup of ours does.
var errBackup = errors.New("the backup holds a file that does not belong there")

// cmdRestore makes a node of a backup, in an empty folder. The configuration comes last: without it there is no node, so what
// a crash leaves can not be run by mistake. In particular not before the database says that it was restored.
func cmdRestore(_ context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "restore")
	dir := f.String("dir", "", "where the node keeps everything (default: the folder of --config)")
	words, err := f.Words(args, 1, "the backup's file; its passphrase is the first line of standard input")
	if err != nil {
		return err
	}
	file, err := f.NewConfig(program, *dir)
	if err != nil {
		return err
	}
	passphrase, err := firstLine(e.In)
	if err != nil {
		return err
	}
	if err := restore(filepath.Dir(file), words[0], passphrase); err != nil {
		return fmt.Errorf("%w; what was written lies in %s, which is to be removed before another try", err, filepath.Dir(file))
	}
	fmt.Fprint(e.Err, "Restored. Never run the old copy of this node again. The contacts are asked for new keys when the node runs;\n"+
		"`node contacts` shows how far that is. Nobody has to do anything.\n\nNext:\n")
	for _, c := range program.Next(file, "run", "contacts") {
		fmt.Fprintf(e.Err, "  %s\n", c)
	}
	return f.Show(e, struct {
		Config string `json:"config"`
	}{file}, func(w io.Writer) { fmt.Fprintf(w, "config %s\n", file) })
}

func restore(dir, file, passphrase string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty", dir))
	}
	src, err := os.Open(file)
	if err != nil {
		return err
	}
	defer src.Close()
	plain, err := openFile(src, passphrase)
	if err != nil {
		return err
	}
	in := bufio.NewReader(plain)          // Restore reads ahead in it
	if _, err := in.Peek(1); err != nil { // another passphrase
		return err
	}
	kv, err := store.OpenBadger(filepath.Join(dir, "db"), store.Options{Reserve: diskReserve})
	if err != nil {
		return err
	}
	err = store.Restore(kv, in)
	if err == nil {
		err = replicate.MarkRestored(kv)
	}
	var config []byte
	if err == nil {
		config, err = restoreFiles(dir, in)
	}
	if err == nil {
		err = media.DropUncounted(filepath.Join(dir, "media"), kv)
	}
	if err = errors.Join(err, kv.Close()); err != nil {
		return err
	}
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return errEnvelope // cut off, or longer
	}
	if err := syncFolders(dir); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, program.ConfigName), config, 0o600)
}

// restoreFiles writes the archive's files, all but the configuration.
func restoreFiles(dir string, in io.Reader) (config []byte, err error) {
	archive := tar.NewReader(in)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return config, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errEnvelope, err)
		}
		name := filepath.FromSlash(h.Name)
		known := slices.Contains([]string{program.ConfigName, onionSeed, signingSeed}, name) || strings.HasPrefix(name, "media"+string(filepath.Separator))
		if !known || !filepath.IsLocal(name) || h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%w: %q", errBackup, h.Name)
		}
		if name == program.ConfigName {
			config, err = io.ReadAll(io.LimitReader(archive, 1<<20))
		} else {
			err = writeOut(filepath.Join(dir, name), archive)
		}
		if err != nil {
			return nil, err
		}
	}
}

// syncFolders makes the names in all folders durable.
func syncFolders(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return durable.SyncDir(path)
	})
}

func writeOut(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
