// Package text is how people write what the lab keeps: stacks, an image's manifest, a lab's own kinds. All of it is TOML, an
// unknown word is an error that shows its line, and what was written by the package is read back as the same. It refuses to
// know whether the images that are named exist.
package text
