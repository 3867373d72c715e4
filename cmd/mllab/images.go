package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

func newImages(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "images",
		Short: "List, pull or build the lab's container images",
		Long: `List, pull or build the lab's container images. mllab pulls them from upstream's
registries. If none is reachable, it builds them from pinned Go modules, a PyPI
wheel and Debian packages. ` + "`mllab up`" + ` gets missing images by itself.`,
		Example: `  mllab images list
  mllab images build --image-source source`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newImagesList(a), newImagesBuild(a), newImagesPrune(a), newImagesLock(a), newImagesSBOM(a), newImagesExtract(a))
	return c
}

func imageFlags(c *cobra.Command, mode, mirror *string) {
	*mode = bootstrap.DefaultMode
	c.Flags().Var(&choice{mode, bootstrap.Modes}, "image-source", "where images come from")
	c.Flags().StringVar(mirror, "registry-mirror", "", "host that replaces every registry, such as 127.0.0.1:5000")
}

func addonFlags(c *cobra.Command, core *bool, with *[]string) {
	c.Flags().BoolVar(core, "core", false, "the small lab: without Flux, Git and Kubeflow")
	c.Flags().StringSliceVar(with, "with", nil, "more addons (`NAME,...`), such as progressive; or all")
}

// ofAddons makes c a command about the images of some addons.
func (a *app) ofAddons(c *cobra.Command, do func(ctx context.Context, o images.Options) error) *cobra.Command {
	var o images.Options
	var core bool
	var with []string
	c.Args = noArgs
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if o.Components, err = bootstrap.Components(core, with); err != nil {
			return err
		}
		o.Cache, o.Report, o.Run = a.global.cache, a.report, run.Exec{}
		return do(c.Context(), o)
	}
	imageFlags(c, &o.Mode, &o.Mirror)
	addonFlags(c, &core, &with)
	return c
}

func newImagesList(a *app) *cobra.Command {
	c := &cobra.Command{Use: "list [flags]", Short: "List the images, their names on the node, and which are cached"}
	return a.ofAddons(c, func(ctx context.Context, o images.Options) error {
		list, err := images.List(ctx, o)
		return show(a, list, err, func(w io.Writer, list []images.Row) {
			rows := [][]string{{"NAME", "SOURCE", "CACHED", "ON THE NODE"}}
			for _, r := range list {
				cached := "no"
				if r.Cached {
					cached = fmt.Sprintf("%.0f MB", float64(r.Bytes)/1e6)
				}
				rows = append(rows, []string{r.Name, r.Source, cached, r.Reference})
			}
			report.Table(w, rows...)
		})
	})
}

func newImagesBuild(a *app) *cobra.Command {
	c := &cobra.Command{Use: "build [flags]", Short: "Pull or build the images missing from the cache"}
	return a.ofAddons(c, func(ctx context.Context, o images.Options) error {
		node, err := images.Resolve(ctx, o)
		if err != nil {
			return err
		}
		a.report.Close()
		result := struct {
			Source string            `json:"source"`
			Why    string            `json:"why"`
			Node   string            `json:"node"`
			Images map[string]string `json:"images"`
		}{node.Source, node.Why, node.Ref, node.Images}
		return a.print(result, func(w io.Writer) {
			fmt.Fprintf(w, "%d images are cached, from %s (%s)\nnode image  %s\ncache       %s\nnext        mllab up\n",
				len(node.Images)+1, node.Source, node.Why, node.Ref, a.global.cache)
		})
	})
}

func newImagesPrune(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove the images that no lab needs",
		Long: `Remove the images that no lab needs. Of the node images in the engine, those stay
that a container uses, and those that this mllab uses for a small lab, a whole one and
all addons. Of the cached images, those for labs of this Kubernetes stay.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := bootstrap.Prune(c.Context(), a.options())
			if err == nil || r.Images > 0 || len(r.Nodes) > 0 { // what was removed is said, also before an error
				err = errors.Join(show(a, r, nil, printPrune), err)
			}
			return err
		},
	}
}

func printPrune(w io.Writer, r bootstrap.PruneReport) {
	if r.Images == 0 && len(r.Nodes) == 0 {
		fmt.Fprintln(w, "nothing to remove")
	}
	if r.Images > 0 {
		fmt.Fprintf(w, "removed  %s\n", r.Other)
	}
	for _, ref := range r.Nodes {
		fmt.Fprintf(w, "removed  node image %s\n", ref)
	}
	for _, ref := range r.Kept {
		fmt.Fprintf(w, "kept     node image %s\n", ref)
	}
	if r.Freed > 0 {
		fmt.Fprintf(w, "freed    %.1f GB by the node images\n", float64(r.Freed)/1e9)
	}
}

func newImagesLock(a *app) *cobra.Command {
	var o images.Options
	var file string
	c := &cobra.Command{
		Use:   "lock [flags]",
		Short: "Check that registries have every upstream image, as the lock file pins it",
		Long: `Check that registries have every upstream image, as the lock file pins it. Each
reference is asked for by HEAD, and its images for linux/amd64 and linux/arm64. The
exit code is 1 if one is missing or has another digest. With --registry-mirror it
checks a mirror.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Report = a.report
			list, err := images.Lock(c.Context(), o)
			if err != nil {
				return err
			}
			a.report.Close()
			err = a.print(list, func(w io.Writer) {
				rows := [][]string{{"REFERENCE", "DIGEST", "STATE"}}
				for _, r := range list {
					state := "not in the lock file"
					if r.Pinned {
						state = "as in the lock file"
					}
					rows = append(rows, []string{r.Reference, cmp.Or(r.Digest, "-"), cmp.Or(r.Problem, state)})
				}
				report.Table(w, rows...)
			})
			if err != nil {
				return err
			}
			if file != "" {
				text, err := images.LockFile(list)
				if err != nil {
					return err
				}
				return os.WriteFile(file, []byte(text), 0o644)
			}
			wrong := 0
			for _, r := range list {
				if r.Problem != "" {
					wrong++
				}
			}
			if wrong > 0 {
				return fault.Hinted(fmt.Errorf("%d of %d references are not as they must be", wrong, len(list)),
					"find out why before you pin it again with --write")
			}
			return nil
		},
	}
	c.Flags().StringVar(&o.Mirror, "registry-mirror", "", "host that replaces every registry, such as 127.0.0.1:5000")
	c.Flags().StringVar(&file, "write", "", "pin what the registries have now in `FILE`, bootstrap/images/upstream.lock in mllab's source")
	return c
}

func newImagesSBOM(a *app) *cobra.Command {
	var o images.Options
	c := &cobra.Command{
		Use:     "sbom NAME [flags]",
		Short:   "Print what a cached image contains, as CycloneDX JSON",
		Example: "  mllab images sbom istio-proxyv2 >proxyv2.cdx.json",
		Args:    one("NAME of `mllab images list`"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Cache, o.Report, o.Run = a.global.cache, a.report, run.Exec{}
			bom, err := images.SBOM(c.Context(), o, args[0])
			if err != nil {
				return err
			}
			return cdx.NewBOMEncoder(c.OutOrStdout(), cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom)
		},
	}
	imageFlags(c, &o.Mode, &o.Mirror)
	return c
}

// newImagesExtract is for the tests that run kube-apiserver and etcd by
// themselves, and not shown.
func newImagesExtract(a *app) *cobra.Command {
	var o images.Options
	var to string
	c := &cobra.Command{
		Use:    "extract --to DIR NAME...",
		Short:  "Write the binaries of images into a folder",
		Hidden: true,
		RunE: func(c *cobra.Command, names []string) error {
			o.Cache, o.Report, o.Run, o.Components = a.global.cache, a.report, run.Exec{}, names
			node, err := images.Resolve(c.Context(), o)
			if err != nil {
				return err
			}
			return node.Extract(names, to)
		},
	}
	imageFlags(c, &o.Mode, &o.Mirror)
	c.Flags().StringVar(&to, "to", ".", "folder")
	return c
}
