"""ONNX graphs: conversion, fusion and inspection."""
