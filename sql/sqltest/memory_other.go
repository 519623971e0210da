//go:build !linux

package sqltest

// memoryDir is empty: the data of a server is in the temporary directory.
func memoryDir() string { return "" }
