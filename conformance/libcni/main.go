// Drives one network through the real libcni, as a runtime does, and prints what came of it.
//
// libcni is Debian's golang-github-appc-cni-dev. Build with
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o libcni-driver .
//
// One verb per run, so that each works from the cache directory alone, like a runtime that was
// restarted in between. Standard output is one JSON object: {"result": …} of ADD, {} of CHECK and
// DEL, or {"error": {"code": …, "msg": …, "details": …}}, then with exit status 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

type settings struct {
	verb, conf, path, cache, id, netns, ifname, args, capabilities string
	timeout                                                        time.Duration
}

func parse() settings {
	var s settings
	flag.StringVar(&s.conf, "conf", "", "network configuration list `FILE`")
	flag.StringVar(&s.path, "path", "", "plugin directories, colon-separated (CNI_PATH)")
	flag.StringVar(&s.cache, "cache", "", "libcni's cache `DIR`")
	flag.StringVar(&s.id, "id", "", "container id")
	flag.StringVar(&s.netns, "netns", "", "path of the container's network namespace; may be empty for del")
	flag.StringVar(&s.ifname, "ifname", "eth0", "interface name in the container")
	flag.StringVar(&s.args, "args", "", "CNI_ARGS, as K=V;K=V")
	flag.StringVar(&s.capabilities, "capabilities", "", "capability arguments as a JSON object")
	flag.DurationVar(&s.timeout, "timeout", 20*time.Second, "bound of the whole call")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: libcni-driver [flags] add|check|del")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	s.verb = flag.Arg(0)
	return s
}

func (s settings) runtimeConf() (*libcni.RuntimeConf, error) {
	conf := &libcni.RuntimeConf{ContainerID: s.id, NetNS: s.netns, IfName: s.ifname}
	for _, pair := range strings.FieldsFunc(s.args, func(r rune) bool { return r == ';' }) {
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("-args: %q is not K=V", pair)
		}
		conf.Args = append(conf.Args, [2]string{key, value})
	}
	if s.capabilities != "" {
		if err := json.Unmarshal([]byte(s.capabilities), &conf.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("-capabilities: %w", err)
		}
	}
	return conf, nil
}

func run(s settings) (map[string]any, error) {
	list, err := libcni.ConfListFromFile(s.conf)
	if err != nil {
		return nil, err
	}
	conf, err := s.runtimeConf()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	network := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(s.path), s.cache, nil)
	switch s.verb {
	case "add":
		// go-cni and ocicni validate once before they use a network: this runs VERSION.
		if _, err := network.ValidateNetworkList(ctx, list); err != nil {
			return nil, err
		}
		result, err := network.AddNetworkList(ctx, list, conf)
		if err != nil {
			return nil, err
		}
		return map[string]any{"result": result}, nil
	case "check":
		return map[string]any{}, network.CheckNetworkList(ctx, list, conf)
	case "del":
		return map[string]any{}, network.DelNetworkList(ctx, list, conf)
	}
	return nil, fmt.Errorf("verb %q is none of add, check, del", s.verb)
}

func main() {
	output, err := run(parse())
	if err != nil {
		var refused *types.Error
		if !errors.As(err, &refused) {
			refused = &types.Error{Msg: err.Error()}
		}
		output = map[string]any{"error": refused}
	}
	if printed := json.NewEncoder(os.Stdout).Encode(output); printed != nil || err != nil {
		os.Exit(1)
	}
}
