module mllab.local/source/pause

go 1.26.0
