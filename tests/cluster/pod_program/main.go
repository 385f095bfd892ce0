// One static program for the test node's own images. As the first process of every pod it pauses; told otherwise it
// serves, calls a server, or writes and reads a file.
//
//	pod                     wait for SIGTERM and collect orphans
//	pod serve ADDR TEXT     answer TEXT to every request
//	pod call URL            ask until the answer is 200, print it
//	pod write FILE TEXT     write, for volumes
//	pod read FILE           print
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	words := append(os.Args[1:], "", "", "")
	switch words[0] {
	case "":
		pause()
	case "serve":
		end(serve(words[1], words[2]))
	case "call":
		end(call(words[1]))
	case "write":
		end(os.WriteFile(words[1], []byte(words[2]), 0o600))
	case "read":
		text, err := os.ReadFile(words[1])
		fmt.Print(string(text))
		end(err)
	default:
		end(fmt.Errorf("unknown command %q", words[0]))
	}
}

func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve(address, text string) error {
	return http.ListenAndServe(address, http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(answer, text)
	}))
}

func call(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	for {
		answer, err := client.Get(url)
		if err == nil && answer.StatusCode == http.StatusOK {
			_, err = io.Copy(os.Stdout, answer.Body)
			return err
		}
		fmt.Fprintln(os.Stderr, "not yet:", err)
		time.Sleep(200 * time.Millisecond)
	}
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
