// hyperkube: the Kubernetes components of the test cluster in one binary, so that they are compiled and linked once.
// The name of the symlink by which it is started selects the component.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	cri "k8s.io/cri-client/pkg"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	var c *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		c = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		c = manager.NewControllerManagerCommand()
	case "kube-scheduler":
		c = scheduler.NewSchedulerCommand()
	case "kubelet":
		c = kubelet.NewKubeletCommand(context.Background())
	case "kube-proxy":
		c = proxy.NewProxyCommand()
	case "stop-all-pods":
		c = &cobra.Command{Use: name + " ENDPOINT", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return stopAllPods(args[0]) }}
	default:
		fmt.Fprintln(os.Stderr, "hyperkube: unknown component", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(c))
}

// stopAllPods stops and removes every pod of a container runtime through its CRI socket, with the pods' network
// interfaces and namespaces. down.sh calls it after the kubelet has ended.
func stopAllPods(endpoint string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	runtime, err := cri.NewRemoteRuntimeService(endpoint, 20*time.Second, nil, nil)
	if err != nil {
		return err
	}
	containers, err := runtime.ListContainers(ctx, nil)
	if err != nil {
		return err
	}
	for _, c := range containers { // no grace period: the cluster is removed
		if err := runtime.StopContainer(ctx, c.Id, 0); err != nil {
			fmt.Fprintln(os.Stderr, "container", c.Id, err)
		}
	}
	pods, err := runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	failed := 0
	for _, p := range pods {
		err := runtime.StopPodSandbox(ctx, p.Id)
		if err == nil {
			err = runtime.RemovePodSandbox(ctx, p.Id)
		}
		if err != nil {
			failed++
			fmt.Fprintln(os.Stderr, "pod", p.Metadata.Namespace+"/"+p.Metadata.Name, err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d pods could not be removed", failed, len(pods))
	}
	return nil
}
