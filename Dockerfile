# docker build -t genre_study . && docker run --rm -v "$PWD/runs:/study/runs" genre_study
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*
WORKDIR /study
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[study]'
CMD ["genre-study", "reproduce"]
