module edgelat/targets

go 1.19
