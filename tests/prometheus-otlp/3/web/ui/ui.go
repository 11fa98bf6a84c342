// Package ui has none of the pages: they are made by tools that Debian does not have.
package ui

import "net/http"

// Assets are empty.
var Assets http.FileSystem = http.Dir("/nonexistent")
