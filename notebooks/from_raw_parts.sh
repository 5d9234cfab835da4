#!/bin/sh
# From raw parts of LAION2B to the recall of its projections:
#
#     sh notebooks/from_raw_parts.sh RAW OUT 10M
#
# RAW holds img_emb_0000.npy, metadata_0000.parquet and their like (README, "LAION2B", says how to fetch them).
# All files go to OUT, a folder for this subset alone.  A file that is there is not made again: after a kill, type the
# same command.
set -eu
if [ $# -ne 3 ]; then
    echo "usage: sh notebooks/from_raw_parts.sh RAW OUT SUBSET" >&2
    exit 2
fi
raw=$1 out=$2 subset=$3

make() { # make FILE COMMAND ...: run gpuknn, which writes FILE, if there is no such file
    file=$1
    shift
    [ -e "$file" ] || gpuknn "$@" -o "$file"
}

echo "== the bundle, its captions and public queries"
database=$out/laion2B-en-clip768v2-n=$subset.h5
queries=$out/public-queries-10k-clip768v2.h5
[ -e "$database" ] && [ -e "$queries" ] || gpuknn build "$raw" --subset "$subset" -o "$out"

echo "== the gold standard: the 100 nearest rows of every query, by cosine"
make "$out/gold.h5" exact "$database" "$queries" -k 100

for d in 32 96; do
    echo "== PCA to $d components: the model, rows and queries through it, their neighbours, recall"
    make "$out/model-pca$d.h5" project fit --pca $d "$database"
    make "$out/database-pca$d.h5" project apply "$out/model-pca$d.h5" "$database"
    make "$out/queries-pca$d.h5" project apply "$out/model-pca$d.h5" "$queries"
    make "$out/gold-pca$d.h5" exact "$out/database-pca$d.h5" "$out/queries-pca$d.h5" -k 100 --metric l2
    gpuknn eval "$out/gold-pca$d.h5" "$out/gold.h5" -k 10,30,100
done

echo "== binary sketches by the published model: rows and queries, their neighbours, recall"
gpuknn data get binwalk
make "$out/database-hamming.h5" project apply binwalk "$database"
make "$out/queries-hamming.h5" project apply binwalk "$queries"
make "$out/gold-hamming.h5" exact "$out/database-hamming.h5" "$out/queries-hamming.h5" -k 100 --metric hamming
gpuknn eval "$out/gold-hamming.h5" "$out/gold.h5" -k 10,30,100
