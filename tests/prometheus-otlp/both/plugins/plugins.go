package plugins

// No service discovery but by files and HTTP (minimum.go, where there is one): the others need the libraries of their clouds.
